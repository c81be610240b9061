//! Quotes words for a shell.

use std::ffi::OsStr;

/// Returns a line that a shell splits into these words.
pub(super) fn words<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> String {
    let words = words.into_iter().map(|word| self::word(&word.as_ref().to_string_lossy()));
    words.collect::<Vec<_>>().join(" ")
}

fn word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_=+,.:/@%^".contains(&b);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn shell_reads_the_same_words() {
        let words = ["--greeting=x", "", "a b", "it's", "$HOME", "~", "a\nb", "*", "é", ";", "\\"];
        let line = format!("printf '%s\\0' {}", super::words(words));
        let out = Command::new("sh").args(["-c", &line]).output().unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        assert_eq!(out.strip_suffix('\0').unwrap().split('\0').collect::<Vec<_>>(), words);
    }

    #[test]
    fn plain_words_are_not_quoted() {
        assert_eq!(
            super::words(["--set", "listen.http=[::1]:80", "-n1"]),
            "--set 'listen.http=[::1]:80' -n1"
        );
    }
}
