//! Words that are not verbs, but most likely meant as one.

/// Names that other programs have for a verb, and our verb. Such a word as the first argument is refused: it
/// is hardly ever meant as an argument of the program.
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

/// The verb, with its options, that other programs call by this word.
pub(super) fn of_others(word: &str) -> Option<&'static str> {
    OF_OTHERS.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours)
}

/// The verb that differs from the word by one typing error.
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
