//! A few real power cuts, where the machine allows them; `make powercuts` does a hundred.

use flotilla_tests::process::{command, run_within};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn stores_that_lose_power_lose_nothing_acknowledged() {
    let mut powercuts = command("powercuts");
    powercuts.args(["--cuts", "4", "--log-engine", "raft-engine"]);
    let output = run_within(powercuts, LIMIT);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}{err}");
    assert!(output.status.success(), "{out}{err}");
    let ran = out.contains("acknowledged writes lost          0");
    assert!(ran || out.contains("powercuts: not run: "), "{out}");
}
