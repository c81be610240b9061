//! The machine and the date of a measurement, without which its figures mean nothing.

use std::process::Command;

pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn this() -> Machine {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let named = info.lines().filter_map(|line| line.split_once(':'));
        let cpu = named.filter(|(key, _)| key.trim() == "model name").map(|(_, name)| name.trim());
        Machine {
            kernel: output_of("uname", &["-sr"]),
            cpu: cpu.take(1).collect(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            date: output_of("date", &["-u", "+%Y-%m-%d"]),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { kernel, cpu, cpus, date } = self;
        write!(f, "{cpus} × {cpu}, {kernel}, {date}")
    }
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or("?".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
