//! Many short simulations, and that a simulation can be repeated.

use std::path::Path;
use std::process::Command;

use dwell_sim::{Class, Scenario, run, shrink, trace};

/// How many seeds; `SIM_SEEDS` sets another number.
const SEEDS: u64 = 1_000;
/// How many things befall each fleet.
const ACTIONS: usize = 12;

#[test]
fn every_seed_keeps_the_promises() {
    let wanted = std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok());
    for seed in 0..wanted.unwrap_or(SEEDS) {
        let scenario = Scenario::of_seed(seed, &Class::ALL, ACTIONS);
        if let Some(violation) = run(&scenario).violation {
            let short = shrink(&scenario, &violation);
            let trace = trace(&short).trace.join("\n");
            panic!(
                "{violation}\n\n{short}\n{trace}\n\nmake sim FROM={seed} SEEDS=1 STEPS={ACTIONS}"
            );
        }
    }
}

#[test]
fn a_seed_does_the_same_every_time() {
    for seed in 0..20 {
        let scenario = Scenario::of_seed(seed, &Class::ALL, 30);
        let (once, again) = (trace(&scenario), trace(&scenario));
        assert_eq!(once.steps, again.steps);
        assert_eq!(once.trace, again.trace);
    }
}

/// A patch that takes a mechanism out goes with what is there.
#[test]
fn every_patch_applies() -> Result<(), Box<dyn std::error::Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for entry in here.join("mutants").read_dir()? {
        let patch = entry?.path();
        let mut check = Command::new("git");
        check.args(["apply", "--check"]).arg(&patch).current_dir(here.join("../.."));
        let output = check.output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
