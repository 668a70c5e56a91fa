//! `dwell-sim`: runs seeds, and shows what a failing one did.
#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use dwell_sim::{ACTIONS, Class, Scenario, run, shrink, trace};

/// Runs simulated fleets and checks that they keep dwell's promises.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many things befall each fleet.
    #[arg(long, default_value_t = ACTIONS)]
    steps: usize,
    /// Only these faults.
    #[arg(long, value_parser = class, value_delimiter = ',')]
    only: Vec<Class>,
    /// All faults but these.
    #[arg(long, value_parser = class, value_delimiter = ',', conflicts_with = "only")]
    without: Vec<Class>,
    /// Go on after a failing seed, without a trace, and count them.
    #[arg(long)]
    keep_going: bool,
    /// Only name the first failing seed.
    #[arg(long, conflicts_with = "keep_going")]
    brief: bool,
}

fn class(name: &str) -> Result<Class, String> {
    let found = Class::ALL.into_iter().find(|class| class.name() == name);
    found.ok_or_else(|| {
        let names: Vec<_> = Class::ALL.iter().map(|class| class.name()).collect();
        format!("there is no fault {name}; there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut on = match &arguments.only[..] {
        [] => Class::ALL.to_vec(),
        only => only.to_vec(),
    };
    on.retain(|class| !arguments.without.contains(class));
    let begun = Instant::now();
    let (mut steps, mut failed) = (0, 0_u64);
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        let scenario = Scenario::of_seed(seed, &on, arguments.steps);
        let outcome = run(&scenario);
        steps += outcome.steps;
        let Some(violation) = outcome.violation else { continue };
        failed += 1;
        println!("seed {seed}: {violation}");
        if arguments.brief {
            break;
        }
        if !arguments.keep_going {
            let short = shrink(&scenario, &violation);
            println!("\nof {} actions these are enough:\n{short}", scenario.len());
            for line in trace(&short).trace {
                println!("{line}");
            }
            println!("\nreplay: make sim FROM={seed} SEEDS=1 STEPS={}", arguments.steps);
            break;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(steps).unwrap_or(u32::MAX)) / seconds.max(1e-9);
    println!(
        "{} seeds, {failed} failed; {steps} steps in {seconds:.2} s, {rate:.0}/s",
        arguments.seeds
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
