use std::collections::VecDeque;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Instant;
use crate::sorted::SortedMap;

#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
struct Whole {
    name: String,
    #[json(default)]
    count: u32,
    #[json(default = seven)]
    other: i64,
    at: Option<f64>,
    kinds: Vec<Shape>,
    pairs: VecDeque<(String, u64)>,
    table: SortedMap<u32, Option<bool>>,
    took: Duration,
    when: SystemTime,
    #[json(flatten)]
    part: Part,
}

#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
#[json(tag = "type", rename_all = "kebab-case")]
enum Part {
    NotMuch {},
    ALot {
        #[json(with = shout)]
        word: String,
        #[json(default, skip_if = String::is_empty)]
        hint: String,
    },
    #[json(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, ToJson, FromJson)]
enum Shape {
    Plain,
    Numbered(u8),
}

#[derive(Debug, PartialEq, ToJson, FromJson)]
#[json(default)]
struct Limits {
    low: u8,
    high: Option<u8>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { low: 3, high: Some(9) }
    }
}

fn seven() -> i64 {
    7
}

mod shout {
    use super::*;

    #[expect(clippy::ptr_arg, reason = "it is called with the field")]
    pub(super) fn write(word: &String, out: &mut Writer) {
        out.text(&word.to_uppercase());
    }

    pub(super) fn read(value: Value) -> Result<String, Mistake> {
        String::read(value).map(|word| word.to_lowercase())
    }
}

fn whole() -> Whole {
    Whole {
        name: "a \"b\" \u{1} ä".into(),
        count: 1,
        other: -5,
        at: Some(0.25),
        kinds: vec![Shape::Plain, Shape::Numbered(4)],
        pairs: [("x".to_owned(), u64::MAX)].into(),
        table: [(2, None), (10, Some(true))].into(),
        took: Duration::new(1, 5),
        when: SystemTime::UNIX_EPOCH + Duration::new(100, 7),
        part: Part::ALot { word: "hey".into(), hint: String::new() },
    }
}

#[test]
fn derived_json_has_the_format_of_serde() {
    let expected = json!({
        "name": "a \"b\" \u{1} ä", "count": 1, "other": -5, "at": 0.25,
        "kinds": ["Plain", { "Numbered": 4 }], "pairs": [["x", u64::MAX]],
        "table": { "2": null, "10": true }, "took": { "secs": 1, "nanos": 5 },
        "when": { "secs_since_epoch": 100, "nanos_since_epoch": 7 }, "type": "a-lot", "word": "HEY",
    });
    assert_eq!(to_value(&whole()).unwrap(), expected);
    assert_eq!(Whole::read(expected).unwrap(), whole());
}

#[test]
fn missing_field_has_its_default() {
    let mut value = to_value(&whole()).unwrap();
    let fields = value.as_object_mut().unwrap();
    for gone in ["count", "other", "at"] {
        fields.remove(gone).unwrap();
    }
    fields.insert("of-a-later-release".into(), json!([{}]));
    let read = Whole::read(value).unwrap();
    assert_eq!(read, Whole { count: 0, other: 7, at: None, ..whole() });
    assert_eq!(from_slice::<Limits>(b"{}").unwrap(), Limits::default());
    let some: Limits = from_slice(br#"{"high":null}"#).unwrap();
    assert_eq!(some, Limits { low: 3, high: None });
}

#[test]
fn variant_of_a_later_release_is_unknown() {
    assert_eq!(from_slice::<Part>(br#"{"type":"dance","word":1}"#).unwrap(), Part::Unknown);
    assert_eq!(to_string(&Part::Unknown).unwrap(), r#"{"type":"unknown"}"#);
    assert_eq!(from_slice::<Part>(br#"{"type":"not-much"}"#).unwrap(), Part::NotMuch {});
    let mistake = from_slice::<Shape>(br#""Other""#).unwrap_err().to_string();
    assert_eq!(mistake, "`Other` is not one of `Plain`, `Numbered`");
}

#[test]
fn mistake_names_the_field() {
    let mistake = |json: &str| from_slice::<Whole>(json.as_bytes()).unwrap_err().to_string();
    assert_eq!(mistake("{}"), "the field `name` is missing");
    assert_eq!(mistake("[]"), "expected an object, found an array");
    assert_eq!(mistake(r#"{"name":7}"#), "`name`: expected a string, found a number");
    let mut value = to_value(&whole()).unwrap();
    value["took"]["nanos"] = json!(-1);
    let mistake = Whole::read(value).unwrap_err().to_string();
    assert_eq!(mistake, "`took.nanos`: expected a number of type u32, found a number");
    assert!(from_slice::<Whole>(b"{\"a\":").unwrap_err().to_string().contains("EOF"));
    assert!(
        from_slice::<Duration>(br#"{"secs":18446744073709551615,"nanos":4294967295}"#).is_err()
    );
    assert!(
        from_slice::<SystemTime>(
            br#"{"secs_since_epoch":18446744073709551615,"nanos_since_epoch":1}"#
        )
        .is_err()
    );
}

#[test]
fn path_that_is_not_utf8_is_not_written() {
    let path = PathBuf::from(std::ffi::OsString::from_vec(b"/a\xff".into()));
    let mistake = to_vec(&vec![path]).unwrap_err();
    assert_eq!(mistake.to_string(), "the path /a\u{fffd} is not UTF-8");
}

#[test]
fn instants_are_numbers_that_mean_the_same_to_every_process() {
    let sent = Some(Instant::from_nanos(7));
    let json = to_vec(&sent).unwrap();
    assert_eq!(json, b"7");
    assert_eq!(from_slice::<Option<Instant>>(&json).unwrap(), sent);
}

proptest! {
    #[test]
    fn any_value_survives_a_round_trip(
        texts in prop::collection::vec(("\\PC*|[\\x00-\\x7f]*", any::<u64>()), 0..4),
        number: f64, numbers in prop::collection::btree_map(any::<u32>(), any::<Option<bool>>(), 0..4),
    ) {
        let sent = Whole {
            at: Some(number).filter(|it| it.is_finite()),
            table: numbers.into_iter().collect(),
            pairs: texts.into(),
            ..whole()
        };
        let text = to_string(&sent).unwrap();
        prop_assert_eq!(&from_slice::<Whole>(text.as_bytes()).unwrap(), &sent);
        // The text is also JSON for another parser.
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(Whole::read(value).unwrap(), sent);
    }
}
