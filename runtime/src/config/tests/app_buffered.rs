//! Types of the application that do not say what they want, from every layer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::place::Place;

fn parse<T: DeserializeOwned>(place: &Place) -> Result<T, String> {
    place.load().app().map_err(|error| place.short(&error.to_string()))
}

/// The same values by variables, by options and by the file.
fn layers(values: &[(&str, &str)]) -> [Place; 3] {
    let (mut variables, mut options) = (Place::new(&[]), Place::new(&[]));
    let mut lines = String::new();
    for (key, value) in values {
        let text = value.trim_matches('\'');
        let variable = format!("DAEMON_APP__{}", key.to_uppercase().replace('.', "__"));
        variables = variables.var(&variable, text);
        options = options.set(&format!("app.{key}={text}"));
        lines += &format!("app.{key} = {value}\n");
    }
    [variables, options, Place::new(&[]).file(&lines)]
}

#[derive(Debug, Deserialize, PartialEq)]
struct Outer {
    title: String,
    #[serde(flatten)]
    server: Server,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Server {
    port: u16,
    address: IpAddr,
    code: String,
    #[serde(default)]
    ratio: f64,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    sizes: Vec<u8>,
    #[serde(flatten)]
    rest: BTreeMap<String, String>,
}

#[test]
fn flattened_structs() {
    let values = [
        ("title", "'2024'"),
        ("port", "80"),
        ("address", "'127.0.0.1'"),
        ("code", "'007'"),
        ("ratio", "1"),
        ("more", "'8'"),
    ];
    for place in layers(&values) {
        let outer: Outer = parse(&place).unwrap();
        assert_eq!((outer.title.as_str(), outer.server.port), ("2024", 80));
        assert_eq!((outer.server.code.as_str(), outer.server.ratio), ("007", 1.0));
        assert_eq!(outer.server.rest["more"], "8");
    }
    let place = Place::new(&[]).file("app = {title='x', port=1, address='::1', code='c'}");
    let place = place.var("DAEMON_APP__TAGS", "a, 1").var("DAEMON_APP__SIZES", "1,2");
    let server = parse::<Outer>(&place).unwrap().server;
    assert_eq!((server.tags, server.sizes), (vec!["a".into(), "1".into()], vec![1, 2]));
}

#[test]
fn mistakes_in_flattened_structs_name_the_whole_key() {
    let good = [("title", "'x'"), ("port", "80"), ("address", "'::1'"), ("code", "'c'")];
    let with = |key: &str, value: &'static str| {
        let mut values = good;
        values.iter_mut().filter(|(its, _)| *its == key).for_each(|it| it.1 = value);
        layers(&values)
    };
    for (key, value, expected) in [
        ("port", "'eighty'", "\"eighty\": expected a whole number from 0 to 65535"),
        ("port", "70000", "70000: expected a whole number from 0 to 65535"),
        ("address", "'nowhere'", "\"nowhere\": invalid IP address syntax"),
    ] {
        let [variables, options, file] = with(key, value);
        let text = expected.replace("70000:", "\"70000\":");
        let variable = format!("DAEMON_APP__{}", key.to_uppercase());
        let answer = format!("`app.{key}` from {variable} is {text}");
        assert_eq!(parse::<Outer>(&variables), Err(answer));
        let answer = format!("`app.{key}` from --set app.{key} is {text}");
        assert_eq!(parse::<Outer>(&options), Err(answer));
        assert_eq!(parse::<Outer>(&file), Err(format!("`app.{key}` in FILE is {expected}")));
    }
    let place = Place::new(&[]).var("DAEMON_APP__TITLE", "x").var("DAEMON_APP__CODE", "1");
    let error = parse::<Outer>(&place.var("DAEMON_APP__PORT", "1")).unwrap_err();
    assert!(error.starts_with("`app.address` is missing: set DAEMON_APP__ADDRESS"), "{error}");
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(untagged)]
enum Listen {
    Port(u16),
    Both { host: String, port: u16 },
    Name(String),
    Many(Vec<u16>),
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Store {
    Memory { size: u32 },
    Disk { path: String },
}

#[derive(Debug, Deserialize, PartialEq)]
struct Parts {
    listen: Listen,
    store: Store,
}

#[test]
fn enums_that_are_told_by_their_content() {
    let listen = |text: &str| {
        let place = Place::new(&[]).file("app.store = {kind = 'memory', size = 1}");
        parse::<Parts>(&place.var("DAEMON_APP__LISTEN", text)).map(|parts| parts.listen)
    };
    assert_eq!(listen("80"), Ok(Listen::Port(80)));
    assert_eq!(listen("http"), Ok(Listen::Name("http".into())));
    assert_eq!(listen("70000"), Ok(Listen::Name("70000".into())));
    assert_eq!(listen("[1, 2]"), Ok(Listen::Many(vec![1, 2])));
    let values = [
        ("listen.host", "'1'"),
        ("listen.port", "80"),
        ("store.kind", "'memory'"),
        ("store.size", "7"),
    ];
    for place in layers(&values) {
        let parts: Parts = parse(&place).unwrap();
        assert_eq!(parts.listen, Listen::Both { host: "1".into(), port: 80 });
        assert_eq!(parts.store, Store::Memory { size: 7 });
    }
    for place in layers(&[("listen", "80"), ("store.kind", "'disk'"), ("store.path", "'7'")]) {
        assert_eq!(parse::<Parts>(&place).unwrap().store, Store::Disk { path: "7".into() });
    }
}

#[test]
fn mistakes_in_such_enums_name_the_whole_key() {
    let place = Place::new(&[]).file("app.store = {kind = 'memory', size = 1}");
    let place = place.var("DAEMON_APP__LISTEN__HOST", "a").var("DAEMON_APP__LISTEN__PORT", "b");
    let error = parse::<Parts>(&place).unwrap_err();
    assert!(error.starts_with("`app.listen`: data did not match any variant"), "{error}");
    let place = Place::new(&[]).var("DAEMON_APP__LISTEN", "1");
    let place =
        place.var("DAEMON_APP__STORE__KIND", "memory").var("DAEMON_APP__STORE__SIZE", "big");
    assert_eq!(
        parse::<Parts>(&place).unwrap_err(),
        "`app.store.size` from DAEMON_APP__STORE__SIZE is \"big\": expected a whole number from 0 to \
         4294967295"
    );
}
