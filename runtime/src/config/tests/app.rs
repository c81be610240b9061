//! The application's section.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct App {
    title: String,
    #[serde(default)]
    verbose: bool,
    limit: Option<u8>,
    #[serde(default)]
    ratio: f32,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    ports: Vec<u16>,
    #[serde(default)]
    mode: Mode,
    db: Option<Db>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Fast,
    Slow,
    Custom {
        level: u8,
    },
    Named(String),
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Db {
    pool: u16,
    max_conn: Option<u64>,
}

fn parse<T: serde::de::DeserializeOwned>(place: &Place) -> Result<T, String> {
    // As the crash respawn has it: over the link, without file and environment.
    let json = crate::json::to_vec(&place.load()).unwrap();
    let arrived: Configuration = crate::json::from_slice(&json).unwrap();
    arrived.app().map_err(|e| place.short(&e.to_string()))
}

fn one<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    #[derive(Deserialize)]
    struct One<T> {
        x: T,
    }
    parse::<One<T>>(&Place::new(&[]).var("DAEMON_APP__X", text)).map(|one| one.x)
}

#[test]
fn text_is_read_as_the_type_asks() {
    assert_eq!(one::<u16>("8080"), Ok(8080));
    assert_eq!(one::<i128>("-5"), Ok(-5));
    assert_eq!(one::<u128>("340282366920938463463374607431768211455"), Ok(u128::MAX));
    assert_eq!(one::<f64>("1.5"), Ok(1.5));
    assert_eq!(one::<f32>("2"), Ok(2.0));
    assert_eq!(one::<bool>("yes"), Ok(true));
    assert_eq!(one::<String>("0123"), Ok("0123".into()));
    assert_eq!(one::<String>(""), Ok("".into()));
    assert_eq!(one::<char>("ä"), Ok('ä'));
    assert_eq!(one::<Option<u8>>("5"), Ok(Some(5)));
    assert_eq!(one::<Vec<u16>>("1, 2,3"), Ok(vec![1, 2, 3]));
    assert_eq!(one::<Vec<u16>>("[1, 2]"), Ok(vec![1, 2]));
    assert_eq!(one::<Vec<u16>>(""), Ok(vec![]));
    assert_eq!(one::<Vec<String>>("['a,b', \"c\"]"), Ok(vec!["a,b".into(), "c".into()]));
    assert_eq!(one::<Vec<String>>("a,1"), Ok(vec!["a".into(), "1".into()]));
    assert_eq!(one::<(u8, String)>("1,b"), Ok((1, "b".into())));
    assert_eq!(one::<Mode>("slow"), Ok(Mode::Slow));
    assert_eq!(one::<Mode>("{custom = {level = 3}}"), Ok(Mode::Custom { level: 3 }));
    assert_eq!(one::<Mode>(r#"{"named": "x"}"#), Ok(Mode::Named("x".into())));
    assert_eq!(one::<Db>("{pool = 3}"), Ok(Db { pool: 3, max_conn: None }));
    assert_eq!(one::<IpAddr>("::1"), Ok(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
    assert_eq!(one::<PathBuf>("a/b"), Ok("a/b".into()));
    assert_eq!(one::<std::num::NonZeroU8>("7"), Ok(7.try_into().unwrap()));
    assert_eq!(one::<BTreeMap<String, u8>>("{a = 1}"), Ok([("a".to_owned(), 1)].into()));
    assert_eq!(one::<serde_json::Value>("5"), Ok("5".into()));
    assert_eq!(
        one::<Vec<u8>>("[1"),
        Err("`app.x` from DAEMON_APP__X is \"[1\": expected an array".into())
    );
}

#[test]
fn the_file_keeps_its_types() {
    let app = "[app]\ntitle = 'x'\nverbose = true\nlimit = 3\nratio = 2\nhosts = ['a']\nports = [1]\nmode = 'slow'\n[app.db]\npool = 4\nmax-conn = 5";
    let read: App = parse(&Place::new(&[]).file(app)).unwrap();
    let db = Some(Db { pool: 4, max_conn: Some(5) });
    let expected = App {
        title: "x".into(),
        verbose: true,
        limit: Some(3),
        ratio: 2.0,
        hosts: vec!["a".into()],
        ports: vec![1],
        mode: Mode::Slow,
        db,
    };
    assert_eq!(read, expected);

    for (toml, answer) in [
        ("limit = '3'", "`app.limit` in FILE is \"3\": expected a whole number from 0 to 255"),
        ("limit = 256", "`app.limit` in FILE is 256: expected a whole number from 0 to 255"),
        ("limit = 1.5", "`app.limit` in FILE is 1.5: expected a whole number from 0 to 255"),
        ("verbose = 'true'", "`app.verbose` in FILE is \"true\": expected true or false"),
        ("title = 5", "`app.title` in FILE is 5: expected text"),
        ("hosts = 'a,b'", "`app.hosts` in FILE is \"a,b\": expected an array"),
        (
            "ports = [1, 'x']",
            "`app.ports[1]` in FILE is \"x\": expected a whole number from 0 to 65535",
        ),
        (
            "mode = 'fats'",
            "`app.mode` in FILE is \"fats\": expected `fast`, `slow`, `custom` or `named`",
        ),
        (
            "mode = 'named'",
            "`app.mode` in FILE is \"named\": expected a table of the variant's name and its value",
        ),
        ("db = 5", "`app.db` in FILE is 5: expected a table"),
        (
            "limit = {a = 1}",
            "`app.limit` in FILE is a table: expected a whole number from 0 to 255",
        ),
        ("tilte = 'x'", "`app.tilte` in FILE is not a known key: did you mean `app.title`?"),
        (
            "db = {pool = 1, xyzzy = 1}",
            "`app.db.xyzzy` in FILE is not a known key: expected `pool` or `max-conn`",
        ),
        ("db = {}", "`app.db.pool` is missing: set it in FILE or by DAEMON_APP__DB__POOL"),
        (
            "mode.custom = {level = 'x'}",
            "`app.mode.custom.level` in FILE is \"x\": expected a whole number from 0 to 255",
        ),
    ] {
        let title = if toml.starts_with("title") { "" } else { "title = 't'\n" };
        let error =
            parse::<App>(&Place::new(&[]).file(&format!("[app]\n{title}{toml}"))).unwrap_err();
        assert_eq!(error, answer, "{toml}");
    }
}

#[test]
fn variables_join_the_file() {
    let file = "[app]\ntitle = 'file'\n[app.db]\npool = 4\nmax-conn = 5";
    let place =
        Place::new(&[]).file(file).var("DAEMON_APP__DB__MAX_CONN", "6").set("app.title=line");
    let app: App = parse(&place).unwrap();
    assert_eq!((app.title.as_str(), app.db), ("line", Some(Db { pool: 4, max_conn: Some(6) })));
    let loaded = place.load();
    assert_eq!(source(&loaded, "app.db.max-conn"), "DAEMON_APP__DB__MAX_CONN");
    assert_eq!(place.short(source(&loaded, "app.db.pool")), "FILE: app.db.pool");

    let alone = Place::new(&[])
        .var("DAEMON_APP__DB__MAX_CONN", "6")
        .var("DAEMON_APP__DB__POOL", "1")
        .set("app.title=t");
    assert_eq!(parse::<App>(&alone).unwrap().db, Some(Db { pool: 1, max_conn: Some(6) }));
}

#[test]
fn variables_are_named_in_errors() {
    let place = |name, value| Place::new(&[]).var("DAEMON_APP__TITLE", "t").var(name, value);
    for (name, value, answer) in [
        (
            "DAEMON_APP__DB__POOL",
            "many",
            "`app.db.pool` from DAEMON_APP__DB__POOL is \"many\": expected a whole number from 0 to 65535",
        ),
        (
            "DAEMON_APP__DB__POLL",
            "1",
            "`app.db.poll` from DAEMON_APP__DB__POLL is not a known key: did you mean `app.db.pool`?",
        ),
        (
            "DAEMON_APP__LIMIT",
            "300",
            "`app.limit` from DAEMON_APP__LIMIT is \"300\": expected a whole number from 0 to 255",
        ),
        (
            "DAEMON_APP__LIMIT",
            "",
            "`app.limit` from DAEMON_APP__LIMIT is \"\": expected a whole number from 0 to 255",
        ),
        (
            "DAEMON_APP__VERBOSE",
            "maybe",
            "`app.verbose` from DAEMON_APP__VERBOSE is \"maybe\": expected true or false",
        ),
        (
            "DAEMON_APP__PORTS",
            "1,x",
            "`app.ports[1]` from DAEMON_APP__PORTS is \"x\": expected a whole number from 0 to 65535",
        ),
        (
            "DAEMON_APP__DB__MAX_CONN",
            "6",
            "`app.db.pool` is missing: set DAEMON_APP__DB__POOL, or name a configuration file that has it",
        ),
    ] {
        assert_eq!(parse::<App>(&place(name, value)).unwrap_err(), answer);
    }
    let error = parse::<App>(&Place::new(&[]).set("app.limit=x").set("app.title=t")).unwrap_err();
    assert_eq!(
        error,
        "`app.limit` from --set app.limit is \"x\": expected a whole number from 0 to 255"
    );
    assert_eq!(
        one::<IpAddr>("x").unwrap_err(),
        "`app.x` from DAEMON_APP__X is \"x\": invalid IP address syntax"
    );
    assert_eq!(
        one::<(u8, u8)>("1,2,3").unwrap_err(),
        "`app.x` from DAEMON_APP__X is \"1,2,3\": expected 2 items, found 3"
    );
}

#[test]
fn no_section_is_an_empty_one() {
    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Optional {
        a: Option<u8>,
    }
    assert_eq!(parse(&Place::new(&[])), Ok(Optional { a: None }));
    let error = parse::<App>(&Place::new(&[])).unwrap_err();
    assert_eq!(
        error,
        "`app.title` is missing: set DAEMON_APP__TITLE, or name a configuration file that has it"
    );
    let mut null = Place::new(&[]).load();
    null.app = serde_json::Value::Null;
    assert_eq!(null.app::<Optional>().unwrap(), Optional { a: None });
}

#[test]
fn flattened_and_untagged_types_get_a_guess() {
    #[derive(Debug, Deserialize, PartialEq)]
    struct Outer {
        name: String,
        #[serde(flatten)]
        inner: Inner,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        size: u8,
        on: bool,
    }
    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(untagged)]
    enum Either {
        Number(u8),
        Text(String),
    }
    let place = Place::new(&[]).set("app.name=1").set("app.size=2").set("app.on=true");
    let expected = Outer { name: "1".into(), inner: Inner { size: 2, on: true } };
    assert_eq!(parse(&place), Ok(expected));
    assert_eq!(one::<Either>("x"), Ok(Either::Text("x".into())));
    assert_eq!(one::<HashMap<u16, u8>>("{80 = 1}"), Ok(HashMap::from([(80, 1)])));
}

#[test]
fn keys_of_the_file_keep_dots_and_dates() {
    #[derive(Debug, Deserialize)]
    struct Odd {
        when: String,
        #[serde(rename = "a.b")]
        dotted: u8,
    }
    let place = Place::new(&[]).file("[app]\nwhen = 2020-01-01\n\"a.b\" = 7");
    let odd: Odd = parse(&place).unwrap();
    assert_eq!((odd.when.as_str(), odd.dotted), ("2020-01-01", 7));
    assert_eq!(place.short(source(&place.load(), "app.\"a.b\"")), "FILE: app.\"a.b\"");
    let nan = Place::new(&[]).file("[app]\nx = nan");
    assert_eq!(nan.error(), "`app.x` in FILE is not a finite number: change it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,40}") {
        let configuration = Place::new(&[]).load();
        let mut configuration = Configuration { app: serde_json::json!({ "title": text, "mode": text, "db": text, "ports": text }), ..configuration };
        let _ = configuration.app::<App>();
        for key in ["title", "mode", "db", "ports"] {
            configuration.sources.insert(format!("app.{key}"), "DAEMON_APP__X".into());
        }
        let _ = configuration.app::<App>();
        prop_assert_eq!(one::<String>(&text.replace('\0', "")), Ok(text.replace('\0', "")));
    }
}
