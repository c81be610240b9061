//! "Did you mean": the known word that a mistyped one is closest to.

/// The candidate that `word` was probably meant to be: at most a third of its letters differ, or `word`
/// is its beginning. Case and the choice between `-` and `_` do not count.
pub fn nearest<S: AsRef<str>>(word: &str, candidates: impl IntoIterator<Item = S>) -> Option<S> {
    let word = plain(word);
    let ranked = candidates.into_iter().filter_map(|candidate| {
        let text = plain(candidate.as_ref());
        let distance = distance(&word, &text);
        let is_typo = distance <= (text.chars().count() / 3).max(1);
        let is_beginning = word.len() >= 3 && text.starts_with(&word);
        (is_typo || is_beginning).then_some(((!is_typo, distance), candidate))
    });
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, candidate)| candidate)
}

fn plain(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// The number of letters to insert, delete, replace or swap with their neighbour to turn `a` into `b`:
/// the optimal string alignment distance.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            if i == 0 || j == 0 {
                rows[i][j] = i + j;
                continue;
            }
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[a.len()][b.len()]
}

/// `a`, `b` or `c`, each in backticks.
pub fn one_of<S: AsRef<str>>(words: &[S]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::KEYS;

    #[test]
    fn nearest_is_a_typo_away_or_a_completion() {
        let names = || KEYS.iter().map(|key| key.name);
        for (word, meant) in [
            ("drain_timout", Some("drain_timeout")),
            ("drain-timeout", Some("drain_timeout")),
            ("DrainTimeout", Some("drain_timeout")),
            ("backof_min", Some("backoff_min")),
            ("start_limit_b", Some("start_limit_burst")),
            ("xyzzy", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, names()), meant, "{word}");
        }
        assert_eq!(nearest("on_failure", ["no", "on-failure"]), Some("on-failure"));
    }

    #[test]
    fn one_of_lists_all_words() {
        assert_eq!(one_of::<&str>(&[]), "");
        assert_eq!(one_of(&["a"]), "`a`");
        assert_eq!(one_of(&["a", "b", "c"]), "`a`, `b` or `c`");
    }

    proptest! {
        #[test]
        fn distance_is_that_of_strsim(a in "[abä]{0,8}", b in "[abä]{0,8}") {
            prop_assert_eq!(distance(&a, &b), strsim::osa_distance(&a, &b));
        }
    }
}
