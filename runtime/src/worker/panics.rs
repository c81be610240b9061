//! What is told of a panic: to the log an event, where `log_format` asks for events, and to the supervisor
//! the reason of an end.

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

/// Installs the hook. It calls the one that it finds, unless that is the standard library's, whose lines
/// would be no event.
pub(super) fn install_hook(state: &Arc<SharedState>) {
    let state = Arc::clone(state);
    let main = thread::current().id();
    let before = panic::take_hook();
    // None is left, which is as if it were the standard library's.
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

/// Of functions, which have no data, the type tells; a hook of which there are two copies of the type is
/// called once too often.
fn are_same(one: &Hook, other: &Hook) -> bool {
    size_of_val(one) == 0 && std::ptr::eq(one, other)
}

fn event(say: &DaemonLog, generation: u32, info: &PanicHookInfo<'_>) {
    let mut fields = Vec::new();
    if let Some(at) = info.location() {
        fields.push(("place".to_owned(), json!(at.to_string())));
    }
    // As the standard library decides.
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
