//! Births and deaths amid faults: in the end nothing more and nothing less than declared.

use anyhow::{Context, Result};
use dwell_tests::churn::Churn;

/// Names the seed of a run to repeat.
const SEED_VARIABLE: &str = "DWELL_TEST_SEED";

#[tokio::test]
async fn three_hundred_births_amid_faults_leave_exactly_what_is_declared() -> Result<()> {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED_VARIABLE} is no number"))?,
        // The same operations every time; `make churn` takes any.
        Err(_) => 7,
    };
    println!("{SEED_VARIABLE}={seed}");
    Churn { births: 300, seed, hosts: 3 }.run(|line| println!("{line}")).await?;
    Ok(())
}
