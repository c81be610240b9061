//! A new build is deployed while clients send requests.

use std::time::Duration;

#[test]
fn a_deploy_loses_nothing() {
    let quickstart = unbroken_test::program(env!("CARGO_BIN_EXE_quickstart")).start();
    let load = quickstart.load("http").start();
    quickstart.restart();
    load.finish().assert_nothing_lost();
    quickstart.stop().assert_drained_within(Duration::from_secs(1));
}
