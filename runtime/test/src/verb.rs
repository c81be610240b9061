//! A run of one of the program's verbs.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::process::Process;

/// The output of a verb that has ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) command: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Runs a command to its end. Its output goes to files in `dir`: a pipe would be held open by processes
    /// that it leaves behind.
    pub(crate) fn of(command: &mut Command, dir: &Path, timeout: Duration) -> Result<Output> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let text = describe(command);
        let io = |what: &str| {
            let what = format!("cannot {what} `{text}`");
            move |source| Error::io(what, source)
        };
        let files = ["stdout", "stderr"].map(|name| dir.join(format!("{name}.{number}")));
        let [stdout, stderr] = &files;
        let create = |path| File::create(path).map(Stdio::from).map_err(io("capture"));
        command.stdin(Stdio::null()).stdout(create(stdout)?).stderr(create(stderr)?);
        let mut child = command.spawn().map_err(|source| {
            let program = Path::new(command.get_program()).display();
            let hint = "give the path of your program, env!(\"CARGO_BIN_EXE_<name>\")";
            Error::io(format!("cannot start {program} ({hint})"), source)
        })?;
        let in_time = Process::of_child(&child).map_err(io("watch"))?.wait_gone(timeout);
        if !in_time {
            // Fails if it has just ended.
            let _ = child.kill();
        }
        let status = child.wait().map_err(io("wait for"))?;
        let [stdout, stderr] = files.map(|path| {
            let bytes = fs::read(&path).unwrap_or_default();
            // The directory is removed at last.
            let _ = fs::remove_file(path);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        let output = Output { command: text, code, stdout, stderr };
        if !in_time {
            let mut error = output.into_error();
            error.reason = format!("not done after {timeout:?}, killed: {}", error.reason);
            return Err(error);
        }
        Ok(output)
    }

    /// Parses the JSON of a verb that has succeeded.
    pub(crate) fn json(self) -> Result<Value> {
        match serde_json::from_str(&self.stdout) {
            Ok(json) if self.code == 0 => Ok(json),
            _ => Err(self.into_error()),
        }
    }

    pub(crate) fn into_error(self) -> Error {
        let json: Value = serde_json::from_str(&self.stdout).unwrap_or_default();
        let reason = match (json["reason"].as_str(), json["state"].as_str()) {
            (Some(reason), _) => reason.to_owned(),
            // Of `status`.
            (None, Some(state)) => format!("the daemon is not running but {state}"),
            (None, None) => self.stderr.trim().to_owned(),
        };
        let lines = json["output"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let output = lines.map(str::to_owned).collect();
        Error { command: self.command, code: Some(self.code), reason, output, source: None }
    }
}

/// The program's name and the verb: the options are long, and the same for all.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let verb = command.get_args().next().unwrap_or_default();
    format!("{} {}", program.to_string_lossy(), verb.to_string_lossy())
}
