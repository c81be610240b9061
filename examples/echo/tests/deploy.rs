//! A new build is deployed while clients connect, each for one echo.

use std::io::{Read, Write};

#[test]
fn a_deploy_loses_nothing() {
    let echo = unbroken_test::program(env!("CARGO_BIN_EXE_echo")).start();
    let load = echo.load("echo").keep_alive(0).exchange(|connection| {
        connection.write_all(b"hello")?;
        let mut answer = [0; 5];
        connection.read_exact(&mut answer)?;
        if answer == *b"hello" { Ok(()) } else { Err(format!("{answer:?}").into()) }
    });
    let load = load.start();
    echo.restart();
    load.finish().assert_nothing_lost();
}
