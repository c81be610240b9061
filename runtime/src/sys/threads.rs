//! `proc_pid_task(5)`: what the threads of another process are doing, as far as the kernel shows it.

use std::fs;
use std::path::Path;
use unbroken_core::sorted::sort_few;

/// One line per thread: its name, its state, and the kernel function in which it waits.
pub(crate) fn of(pid: i32) -> Vec<String> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut lines: Vec<String> = tasks.flatten().map(|task| line(pid, &task.path())).collect();
    sort_few(&mut lines, |a, b| a < b);
    lines
}

fn line(pid: i32, task: &Path) -> String {
    let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
    let thread = task.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("gone");
    let wchan = match read("wchan").trim() {
        "" | "0" => String::new(),
        place => format!(" in {place}"),
    };
    format!("process {pid}, thread {thread} ({}): {}{wchan}", read("comm").trim(), state.trim())
}

#[cfg(test)]
mod tests {
    #[test]
    fn own_threads_are_listed() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let lines = super::of(pid);
        assert!(!lines.is_empty());
        assert!(lines.iter().any(|line| line.contains("running")), "{lines:?}");
    }
}
