//! An error with all its causes, on one line.

use std::error::Error;
use std::fmt;

/// Shows an error and its sources, separated by `": "`. A source that says nothing new is left out:
/// some libraries repeat it in their own message.
pub struct Causes<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.to_string();
        f.write_str(&shown)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !shown.ends_with(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn repeated_causes_are_left_out() {
        let error = Layer("a", Some(Layer("b: c", Some(Layer("c", None).into())).into()));
        assert_eq!(Causes(&error).to_string(), "a: b: c");
    }
}
