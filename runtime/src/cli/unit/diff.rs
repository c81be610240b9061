//! The difference between two texts, in the format of `diff -u`.

use std::fmt::Write;

/// The number of unchanged lines shown before and after a change.
const CONTEXT: usize = 3;

/// The largest table of pairs of lines that is compared, of 4 bytes each: 16 MB. Beyond it all lines count as
/// changed; unit files, even of a thousand lines, stay below.
const PAIRS: usize = 4_000_000;

/// What happens to a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Kept,
    Removed,
    Added,
}

/// Returns the difference, in hunks below a header; empty if the texts are equal.
pub(super) fn unified(old: &str, new: &str, before: &str, after: &str) -> String {
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let edits = edits(&old, &new);
    let mut text = String::new();
    let (mut at, mut line) = (0, (0, 0));
    while let Some(first) = edits[at..].iter().position(|edit| *edit != Edit::Kept) {
        let begin = (at + first).saturating_sub(CONTEXT).max(at);
        let end = end_of_hunk(&edits, at + first);
        line = step(line, &edits[at..begin]);
        let (from, to) = (line, step(line, &edits[begin..end]));
        if text.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "--- {before}\n+++ {after}");
        }
        let (removed, added) = (range(from.0, to.0), range(from.1, to.1));
        let _ = writeln!(text, "@@ -{removed} +{added} @@");
        for edit in &edits[begin..end] {
            let (sign, shown) = match edit {
                Edit::Kept => (' ', old[line.0]),
                Edit::Removed => ('-', old[line.0]),
                Edit::Added => ('+', new[line.1]),
            };
            line = step(line, &[*edit]);
            let _ = write!(text, "{sign}{shown}");
            if !shown.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
        at = end;
    }
    text
}

/// The end of the hunk with the change at `first`: changes with little between them are in one hunk.
fn end_of_hunk(edits: &[Edit], first: usize) -> usize {
    let mut last = first;
    for (at, edit) in edits.iter().enumerate().skip(first) {
        if *edit != Edit::Kept {
            last = at;
        } else if at - last > 2 * CONTEXT {
            break;
        }
    }
    (last + 1 + CONTEXT).min(edits.len())
}

/// The line numbers in both texts after these edits.
fn step((old, new): (usize, usize), edits: &[Edit]) -> (usize, usize) {
    let count = |not: Edit| edits.iter().filter(|edit| **edit != not).count();
    (old + count(Edit::Added), new + count(Edit::Removed))
}

/// A range of lines in the head of a hunk.
fn range(from: usize, to: usize) -> String {
    match to - from {
        0 => format!("{from},0"),
        1 => format!("{}", from + 1),
        length => format!("{},{length}", from + 1),
    }
}

/// The shortest sequence of edits from one text to the other; removed lines come before added ones.
fn edits(old: &[&str], new: &[&str]) -> Vec<Edit> {
    let same = |(a, b): &(&&str, &&str)| a == b;
    let head = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);

    let mut edits = vec![Edit::Kept; head];
    if old.len().saturating_mul(new.len()) > PAIRS {
        edits.extend(vec![Edit::Removed; old.len()]);
        edits.extend(vec![Edit::Added; new.len()]);
    } else {
        middle(old, new, &mut edits);
    }
    edits.extend(vec![Edit::Kept; tail]);
    edits
}

/// Appends the edits between two texts by their longest common subsequence.
fn middle(old: &[&str], new: &[&str], edits: &mut Vec<Edit>) {
    let width = new.len() + 1;
    // At each pair of lines, the length of the longest common subsequence from there on.
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let at = i * width + j;
            common[at] = match old[i] == new[j] {
                true => common[at + width + 1] + 1,
                false => common[at + width].max(common[at + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        let at = i * width + j;
        let edit = if i < old.len() && j < new.len() && old[i] == new[j] {
            Edit::Kept
        } else if i < old.len() && (j == new.len() || common[at + width] >= common[at + 1]) {
            Edit::Removed
        } else {
            Edit::Added
        };
        (i, j) = step((i, j), &[edit]);
        edits.push(edit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_in_hunks() {
        let old = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\n";
        let new = "a\nB\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\nn";
        assert_eq!(
            unified(old, new, "x", "y"),
            "--- x\n+++ y\n@@ -1,5 +1,5 @@\n a\n-b\n+B\n c\n d\n e\n\
             @@ -11,3 +11,4 @@\n k\n l\n m\n+n\n\\ No newline at end of file\n"
        );
        // Changes whose surroundings touch are one hunk.
        let near = unified("a\nb\nc\nd\ne\nf\ng\nh\n", "A\nb\nc\nd\ne\nf\ng\nH\n", "x", "y");
        assert_eq!(near.matches("@@ -1,8 +1,8 @@").count(), 1, "{near}");
        assert_eq!(near.matches(" @@\n").count(), 1, "{near}");
    }

    #[test]
    fn empty_texts_are_compared() {
        assert_eq!(unified("a\n", "a\n", "x", "y"), "");
        assert_eq!(unified("", "a\nb\n", "x", "y"), "--- x\n+++ y\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified("a\n", "", "x", "y"), "--- x\n+++ y\n@@ -1 +0,0 @@\n-a\n");
    }

    #[test]
    fn moved_line_is_removed_and_added() {
        let shown = unified("a\nb\nc\n", "b\nc\na\n", "x", "y");
        assert_eq!(shown, "--- x\n+++ y\n@@ -1,3 +1,3 @@\n-a\n b\n c\n+a\n");
    }

    /// Short texts are shown as a whole: the kept and removed lines are the old text, the kept and added
    /// lines the new one.
    #[test]
    fn diff_reproduces_both_texts() {
        let texts: Vec<String> = (0..3_usize.pow(4))
            .map(|number| {
                let line = |place| ["a\n", "b\n", ""][number / 3_usize.pow(place) % 3];
                (0..4).map(line).collect()
            })
            .collect();
        for old in &texts {
            for new in &texts {
                let diff = unified(old, new, "x", "y");
                let side = |sign| {
                    let lines = diff.lines().skip(2).filter(|line| !line.starts_with("@@"));
                    let lines = lines.filter(|line| line.starts_with([' ', sign]));
                    lines.map(|line| format!("{}\n", &line[1..])).collect::<String>()
                };
                if old != new {
                    assert_eq!((&side('-'), &side('+')), (old, new), "{diff}");
                }
            }
        }
    }
}
