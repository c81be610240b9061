//! The text of a TOML document as figment's values.

use figment::value::{Dict, Value};
use toml::de::{DeTable, DeValue};

/// Why a text is not a TOML document.
#[derive(Debug)]
pub(super) struct TomlSyntaxError {
    /// The line, counted from 1.
    pub(super) line: usize,
    pub(super) message: String,
}

/// The key of the one-entry table that represents a date or time.
pub(super) const DATETIME: &str = "$__toml_private_datetime";

/// Parses a document.
pub(super) fn parse(text: &str) -> Result<Dict, TomlSyntaxError> {
    let document = DeTable::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        TomlSyntaxError::at(text, start, error.message())
    })?;
    table(text, document.get_ref())
}

impl TomlSyntaxError {
    fn at(text: &str, position: usize, message: &str) -> Self {
        let before = text.get(..position).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        TomlSyntaxError { line, message: message.trim().replace('\n', ", ") }
    }
}

fn table(text: &str, table: &DeTable<'_>) -> Result<Dict, TomlSyntaxError> {
    let mut dict = Dict::new();
    for (key, of) in table {
        dict.insert(key.get_ref().to_string(), value(text, of.span().start, of.get_ref())?);
    }
    Ok(dict)
}

fn value(text: &str, position: usize, of: &DeValue<'_>) -> Result<Value, TomlSyntaxError> {
    let range = || TomlSyntaxError::at(text, position, "this number is out of range");
    Ok(match of {
        DeValue::String(string) => Value::from(&**string),
        DeValue::Boolean(flag) => Value::from(*flag),
        DeValue::Integer(number) => {
            Value::from(i64::from_str_radix(number.as_str(), number.radix()).map_err(|_| range())?)
        }
        DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().map_err(|_| range())?),
        DeValue::Datetime(time) => {
            let mut table = Dict::new();
            table.insert(DATETIME.to_owned(), Value::from(time.to_string()));
            Value::from(table)
        }
        DeValue::Array(items) => {
            let items = items.iter().map(|item| value(text, item.span().start, item.get_ref()));
            Value::from(items.collect::<Result<Vec<_>, _>>()?)
        }
        DeValue::Table(of) => Value::from(table(text, of)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value() {
        let text = "a = 'x'\nb = [0x1F, 0o17, 0b11, -1_000]\nc = [1.5e3, -inf, nan]\nd = 2026-05-01\n\
                    e.\"f g\" = {h = true}\n[[i]]\nj = \"\\n\"\n[[i]]\n";
        let dict = parse(text).unwrap();
        assert_eq!(dict["a"].as_str(), Some("x"));
        let Value::Array(_, numbers) = &dict["b"] else { panic!("{dict:?}") };
        let numbers: Vec<_> = numbers.iter().map(|n| n.to_i128()).collect();
        assert_eq!(numbers, [Some(31), Some(15), Some(3), Some(-1000)]);
        let Value::Array(_, numbers) = &dict["c"] else { panic!("{dict:?}") };
        let numbers: Vec<_> = numbers.iter().filter_map(|n| n.to_num()?.to_f64()).collect();
        assert_eq!(numbers[..2], [1500.0, f64::NEG_INFINITY]);
        assert!(numbers[2].is_nan());
        assert_eq!(super::super::values::datetime(&dict["d"]), Some("2026-05-01"));
        let below = dict["e"].as_dict().unwrap()["f g"].as_dict().unwrap();
        assert_eq!(below["h"].to_bool(), Some(true));
        let Value::Array(_, tables) = &dict["i"] else { panic!("{dict:?}") };
        assert_eq!(tables[0].as_dict().unwrap()["j"].as_str(), Some("\n"));
        assert_eq!(tables.len(), 2);
    }

    #[test]
    fn mistakes_have_their_line() {
        let mistakes = [
            ("a = 1\nb = yes\n", 2),
            ("a = 1\n\na = 2\n", 3),
            ("a = 1\nb = [\n  1,\n  9223372036854775808]\n", 4),
            ("[a]\n[a]\n", 2),
            ("a = '", 1),
        ];
        for (text, line) in mistakes {
            let mistake = parse(text).unwrap_err();
            assert_eq!(mistake.line, line, "{text}: {mistake:?}");
            assert!(!mistake.message.is_empty() && !mistake.message.contains('\n'), "{mistake:?}");
        }
    }
}
