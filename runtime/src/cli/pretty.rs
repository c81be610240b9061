//! Indents JSON for people.

/// Formats compact JSON with each member on a line of its own.
pub(super) fn pretty(compact: &str) -> String {
    let mut text = String::with_capacity(compact.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    let mut characters = compact.chars().peekable();
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(character) = characters.next() {
        if quoted {
            text.push(character);
            quoted = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            '{' | '[' => {
                text.push(character);
                if let Some(end) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(character);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => {
                quoted = character == '"';
                text.push(character);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_equals_serde_json_pretty() {
        let value = serde_json::json!({
            "a": [1, -2.5, null, true, [], {}, [[1]]],
            "b{[,:\"\\": "x\\\\\"y\\", "c": {"d": {"e": "\u{1}ä\n"}}, "": "",
        });
        let compact = serde_json::to_string(&value).unwrap();
        assert_eq!(pretty(&compact), serde_json::to_string_pretty(&value).unwrap());
        for value in [serde_json::json!([]), serde_json::json!("a"), serde_json::json!(1)] {
            assert_eq!(pretty(&value.to_string()), serde_json::to_string_pretty(&value).unwrap());
        }
    }
}
