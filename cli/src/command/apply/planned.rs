//! A plan as a file: what was declared, and what it was shown to do.
//!
//! The file is JSON. `dwell apply --plan` sends what was declared together with the digests of what was shown, and the
//! controller refuses it if it would do anything else. What was shown is in the file too, for people and programs that
//! look at it before it is applied.

use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounded;
use crate::failure::Failure;
use crate::manifest::{self, Declared};
use crate::output::view::PlansView;
use crate::private_file;

/// Which form of the file this is.
const FORM: u32 = 1;
/// The largest file that is read, in bytes: as declared, and as shown with every name.
const SIZE_MAX: usize = 32 * manifest::SIZE_MAX;

/// What is to be declared, and, if that was planned, what it is to do.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::command) struct Planned {
    pub(super) declared: Vec<Declared>,
    /// The digest of each one's plan, in their order; none if it is to be done whatever it does.
    pub(super) digests: Vec<String>,
    /// Whether limits are set although an instance uses more than they allow.
    pub(super) force: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    dwell_plan: u32,
    declared: Vec<Declared>,
    digests: Vec<String>,
    /// What was shown; not read.
    shown: Value,
}

impl Planned {
    /// To be declared, whatever it does.
    pub(in crate::command) fn of(declared: Vec<Declared>) -> Self {
        Self { declared, digests: Vec::new(), force: false }
    }

    /// Writes it into a new file, with what it was shown to do.
    pub(super) fn save(&self, plans: &PlansView, path: &Path) -> Result<(), Failure> {
        let digests: Vec<String> = plans.workloads.iter().map(|plan| plan.digest.clone()).collect();
        if digests.iter().any(String::is_empty) {
            return Err(Failure::Other(
                "the controller is older than this command line and cannot hold to a plan; update it".into(),
            ));
        }
        let other =
            |error: serde_json::Error| Failure::Other(format!("cannot write a plan: {error}"));
        let shown = serde_json::to_value(plans).map_err(other)?;
        let file = PlanFile { dwell_plan: FORM, declared: self.declared.clone(), digests, shown };
        let text = serde_json::to_string_pretty(&file).map_err(other)?;
        private_file::write_new(path, (text + "\n").as_bytes())
    }

    /// Reads what was planned.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let bytes = File::open(path).and_then(|file| bounded(file, SIZE_MAX));
        let bytes =
            bytes.map_err(|error| Failure::Usage(format!("cannot read {shown}: {error}")))?;
        Self::parse(&bytes).map_err(|problem| {
            Failure::Usage(format!("{shown}: {problem}; `dwell plan --out` makes plans"))
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() > SIZE_MAX {
            return Err(format!("is larger than {SIZE_MAX} bytes"));
        }
        #[derive(Deserialize)]
        struct Form {
            dwell_plan: u32,
        }
        let form: Form = serde_json::from_slice(bytes)
            .map_err(|error| format!("is not a plan of dwell: {error}"))?;
        if form.dwell_plan != FORM {
            return Err(format!(
                "is a plan in form {}, made by another version of dwell; this one reads form {FORM}",
                form.dwell_plan
            ));
        }
        let file: PlanFile =
            serde_json::from_slice(bytes).map_err(|error| format!("is a damaged plan: {error}"))?;
        if file.declared.len() != file.digests.len() {
            return Err(format!(
                "is a damaged plan: {} workloads with {} digests",
                file.declared.len(),
                file.digests.len()
            ));
        }
        Ok(Self { declared: file.declared, digests: file.digests, force: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Surroundings, Variables};
    use crate::output::view::PlanView;

    fn planned() -> Planned {
        let yaml = b"workloads:\n  web:\n    image: hello\n    environment: {KEY: value}\n";
        Planned::of(
            manifest::read("-", yaml, &Surroundings::of(&Variables::new())).unwrap().declared,
        )
    }

    #[test]
    fn a_plan_comes_back_from_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.plan");
        let plan = PlanView { name: "web".into(), digest: "d1".into(), ..PlanView::default() };
        let plans = PlansView { workloads: vec![plan], revision: 7 };
        planned().save(&plans, &path).unwrap();
        let read = Planned::open(&path).unwrap();
        assert_eq!(read, Planned { digests: vec!["d1".into()], ..planned() });
        let again = planned().save(&plans, &path).unwrap_err().to_string();
        assert!(again.contains("exists already"), "{again}");
        let old = PlansView { workloads: vec![PlanView::default()], revision: 7 };
        let refused = planned().save(&old, &directory.path().join("old")).unwrap_err().to_string();
        assert!(refused.contains("older than this command line"), "{refused}");
    }

    #[test]
    fn what_is_no_plan_is_refused_with_the_reason() {
        let problem = |text: &str| Planned::parse(text.as_bytes()).unwrap_err();
        assert!(problem("workloads: {}").contains("is not a plan of dwell"));
        assert!(problem(r#"{"dwell_plan": 2}"#).contains("form 2, made by another version"));
        let damaged =
            problem(r#"{"dwell_plan": 1, "declared": [], "digests": ["a"], "shown": null}"#);
        assert!(damaged.contains("0 workloads with 1 digests"), "{damaged}");
        assert!(
            problem(r#"{"dwell_plan": 1, "shown": null}"#).contains("damaged plan: missing field")
        );
    }
}
