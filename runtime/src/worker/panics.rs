//! The panic hook of a worker. It logs a panic as an event if `log_format` asks for events, and reports a
//! panic of `main` to the supervisor as the reason of the exit.

use std::backtrace::Backtrace;
use std::panic::{self, PanicHookInfo};
use std::sync::Arc;
use std::thread;

use serde_json::json;

use super::state::SharedState;
use crate::config::{LogFormat, LogLevel};
use crate::link::FromWorker;
use crate::logs::{DaemonLog, EventContext};

type Hook = dyn Fn(&PanicHookInfo<'_>) + Send + Sync;

/// Installs the hook. It also calls the hook installed before, except for that of the standard library if
/// panics are logged as events: its plain lines would not fit the log's format.
pub(super) fn install_hook(state: &Arc<SharedState>) {
    let state = Arc::clone(state);
    let main = thread::current().id();
    let before = panic::take_hook();
    // Without an installed hook, `take_hook` returns that of the standard library.
    let standard = panic::take_hook();
    let settings = &state.configuration.settings;
    let say = (settings.log_format != LogFormat::None).then(|| DaemonLog::new(settings, false));
    let quiet = say.is_some() && are_same(&*before, &*standard);
    panic::set_hook(Box::new(move |info| {
        if !quiet {
            before(info);
        }
        if let Some(say) = &say {
            event(say, state.generation, info);
        }
        if thread::current().id() == main {
            let place = info.location().map(|at| format!(" at {at}")).unwrap_or_default();
            let reason = format!("panicked{place}: {}", message(info));
            state.send(&FromWorker::Failing { reason });
        }
    }));
}

/// Returns whether two hooks are the same function. A function has no data, so its type identifies it. If the
/// compiler has made two copies of it, this returns false, and the standard library's hook is called as well.
fn are_same(one: &Hook, other: &Hook) -> bool {
    size_of_val(one) == 0 && std::ptr::eq(one, other)
}

fn event(say: &DaemonLog, generation: u32, info: &PanicHookInfo<'_>) {
    let mut fields = Vec::new();
    if let Some(at) = info.location() {
        fields.push(("place".to_owned(), json!(at.to_string())));
    }
    // The same condition as in the standard library.
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        let backtrace = Backtrace::force_capture().to_string();
        fields.push(("backtrace".to_owned(), json!(backtrace)));
    }
    let thread = thread::current();
    let text =
        format!("thread `{}` panicked: {}", thread.name().unwrap_or("unnamed"), message(info));
    let about = EventContext {
        generation: Some(generation),
        worker: i32::try_from(std::process::id()).ok(),
        place: info.location().map(|at| (at.file(), at.line())),
        fields: &fields,
    };
    say.event(LogLevel::Error, &text, about);
}

fn message<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
