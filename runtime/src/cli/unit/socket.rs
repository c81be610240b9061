//! The text of a `.socket` unit. Each listener has its own, because all sockets of a unit have the same
//! `FileDescriptorName=`.

use super::text::{self, Text};
use crate::config::{Address, ListenSettings};

pub(super) fn socket(service: &str, daemon: &str, name: &str, listener: &ListenSettings) -> String {
    let mut text = Text::default();
    text.section("Unit")
        .set("Description", format_args!("{}, listener {name}", text::whole(daemon)));
    text.section("Socket").comment(
        "systemd holds this socket; connections queue in it while the service is not running.",
    );
    for addr in listener.addrs() {
        match addr {
            Address::Tcp(addr) => text.set("ListenStream", addr),
            Address::Unix(path) => text.set("ListenStream", text::whole(&path.to_string_lossy())),
        };
    }
    if listener.is_ipv6() {
        text.set("BindIPv6Only", if listener.v6only { "ipv6-only" } else { "both" });
    }
    text.set("FileDescriptorName", name).set("Service", service).set("Backlog", listener.backlog);
    if listener.is_unix() {
        let mode = listener.mode.unwrap_or(0o600);
        text.group("Access, as set by `mode`, `user` and `group` of the listener.")
            .set("SocketMode", format_args!("{mode:04o}"));
        for (key, account) in [("SocketUser", &listener.user), ("SocketGroup", &listener.group)] {
            if let Some(account) = account {
                text.set(key, text::whole(account));
            }
        }
        text.set("RemoveOnStop", "yes");
    }
    text.section("Install").set("WantedBy", "sockets.target");
    text.into_string()
}
