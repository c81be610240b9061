//! P9: accepting does not wait for the kernel to grow the descriptor table, which is sized before a worker
//! has threads.

#![allow(clippy::expect_used)]

use std::time::Duration;

use unbroken_tests::{Child, Process, Sandbox};

const SOON: Duration = Duration::from_secs(20);

/// The largest size of a table, whatever the limit.
const MOST: u64 = 65_536;

/// Asserts that the descriptor table is as large as the soft limit, but not larger than [`MOST`].
#[track_caller]
fn assert_sized(worker: &Process, what: &str) {
    assert!(worker.threads() > 1, "{what}: what does not have threads does not wait");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", worker.pid())).expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let soft = line.split_whitespace().nth(3).expect("a soft limit");
    let soft: u64 = soft.parse().unwrap_or(u64::MAX);
    let size = worker.field("FDSize").expect("a size").parse::<u64>().expect("a number");
    assert_eq!(size, soft.min(MOST).next_power_of_two(), "{what}: the limit is {soft}");
}

#[test]
fn descriptor_table_is_as_large_as_the_limit() {
    for fixture in ["http", "sync", "hello-solo"] {
        for limit in ["-n 300", "-Sn 5000", "-n $(ulimit -Hn)"] {
            let sandbox = Sandbox::new(fixture);
            let image = sandbox.image();
            let script = format!("ulimit {limit} && exec \"$1\" start");
            let arguments = ["-c".as_ref(), script.as_ref(), "sh".as_ref(), image.as_os_str()];
            Child::spawn(&mut sandbox.command_of("sh", arguments)).wait(SOON).expect_code(0);
            let solo = fixture == "hello-solo";
            let worker = if solo { sandbox.supervisor() } else { sandbox.worker() };
            assert_sized(&worker, &format!("{fixture}, ulimit {limit}"));
            if !solo {
                sandbox.restart();
                assert_sized(&sandbox.worker(), &format!("{fixture}, ulimit {limit}, restarted"));
            }
            sandbox.stop();
        }
    }
}
