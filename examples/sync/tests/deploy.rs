//! A new build is deployed while clients connect, each for one line.

use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

#[test]
fn a_deploy_loses_nothing() {
    let sync = unbroken_test::program(env!("CARGO_BIN_EXE_sync")).start();
    let load = sync.load("lines").keep_alive(0).exchange(|connection| {
        connection.write_all(b"hello\n")?;
        let mut answer = String::new();
        BufReader::new(connection).read_line(&mut answer)?;
        if answer == "5\n" { Ok(()) } else { Err(answer.into()) }
    });
    let load = load.start();
    sync.restart();
    load.finish().assert_nothing_lost();
    sync.stop().assert_drained_within(Duration::from_secs(1));
}
