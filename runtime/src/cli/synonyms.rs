//! Words that are no verbs, and most likely meant as one.

/// What other programs call a verb, and the verb. Nobody who types one of them wants a daemon with that
/// word as its argument: it is refused.
const OF_OTHERS: [(&str, &str); 22] = [
    ("reload", "restart"),
    ("force-reload", "restart"),
    ("try-restart", "restart"),
    ("condrestart", "restart"),
    ("graceful", "restart"),
    ("upgrade", "restart"),
    ("update", "restart"),
    ("reexec", "restart"),
    ("kill", "stop"),
    ("quit", "stop"),
    ("exit", "stop"),
    ("shutdown", "stop"),
    ("terminate", "stop"),
    ("ps", "status"),
    ("log", "logs"),
    ("tail", "logs"),
    ("journal", "logs"),
    ("configtest", "check"),
    ("daemonize", "start"),
    ("install", "unit --install"),
    ("systemd", "unit"),
    ("version", "help"),
];

/// The verb, with its option, that other programs call so.
pub(super) fn of_others(word: &str) -> Option<&'static str> {
    OF_OTHERS.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours)
}

/// The verb that is one slip of the finger away.
pub(super) fn misspelt(
    word: &str,
    verbs: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    verbs.into_iter().find(|verb| unbroken_schema::distance(word, verb) == 1)
}

#[cfg(test)]
pub(super) fn all_of_others() -> impl Iterator<Item = (&'static str, &'static str)> {
    OF_OTHERS.into_iter()
}
