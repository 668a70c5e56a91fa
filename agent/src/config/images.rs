//! How long images stay that nothing needs, and how full they may make the disk.

use std::time::Duration;

use dwell_core::quantity::Millis;
use dwell_daemon::config::ConfigError;
use serde::Deserialize;

/// What becomes of images that this agent fetched and that nothing needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// After how long they are removed.
    pub keep: Keep,
    /// From how full a disk on they are removed before that.
    pub high: Percent,
    /// How far.
    pub low: Percent,
}

/// A time, or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Keep {
    /// At least this long.
    For(Duration),
    /// Until the disk is full.
    Forever,
}

/// A part of a disk: `85%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Percent(pub u8);

impl Default for Images {
    fn default() -> Self {
        let keep = Keep::For(Duration::from_secs(72 * 3600));
        Self { keep, high: Percent(85), low: Percent(70) }
    }
}

impl TryFrom<String> for Keep {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let time: Millis = text.parse().map_err(|_| {
            format!("{text:?} is no time such as 72h or 30d, and not the word forever")
        })?;
        Ok(Self::For(time.as_duration()))
    }
}

impl TryFrom<String> for Percent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
        let number = number.filter(|number| (1..=100).contains(number));
        number.map(Self).ok_or_else(|| format!("{text:?} is not 1% to 100%"))
    }
}

impl Images {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.low < self.high {
            return Ok(());
        }
        let problem = format!("{}% has to be lower than images.high, {}%", self.low.0, self.high.0);
        Err(ConfigError::Value { key: "images.low", problem })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Images, String> {
        let images: Images = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        images.check().map_err(|error| error.to_string())?;
        Ok(images)
    }

    #[test]
    fn times_and_parts_are_read() {
        let images = read("{keep: 30d, high: 90%, low: 50%}").unwrap();
        assert_eq!(images.keep, Keep::For(Duration::from_secs(30 * 86_400)));
        assert_eq!((images.high, images.low), (Percent(90), Percent(50)));
        assert_eq!(read("keep: forever").unwrap().keep, Keep::Forever);
        assert_eq!(read("{}").unwrap(), Images::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, problem) in [
            ("keep: always", "72h"),
            ("keep: 72", "72h"),
            ("high: 0%", "1% to 100%"),
            ("high: 85", "1% to 100%"),
            ("low: 101%", "1% to 100%"),
            ("{high: 70%, low: 70%}", "lower than images.high"),
            ("after: 3h", "after"),
        ] {
            let refused = read(text).unwrap_err();
            assert!(refused.contains(problem), "{text}: {refused}");
        }
    }
}
