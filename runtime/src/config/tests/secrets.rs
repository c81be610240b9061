//! Files of variables, files in place of values, credentials; and what is never shown.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use super::place::Place;
use crate::config::env::EnvFile;
use crate::spec::Literal;

/// Writes a file beside the configuration, and names it.
fn write(place: &Place, name: &str, text: &str) -> PathBuf {
    let path = place.dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct App {
    user: String,
    password: Option<String>,
    #[serde(default)]
    pin: u16,
    cert_file: Option<PathBuf>,
}

fn app(place: &Place) -> Result<App, String> {
    place.load().app().map_err(|error| error.to_string())
}

#[test]
fn a_file_of_variables_is_above_the_environment() {
    let place = Place::new(&[("env_file", Literal::Str("a.env,-none.env"))]);
    let file = write(&place, "a.env", "V=1\nDAEMON_UMASK=0027\nDAEMON_APP__PIN=7\n");
    let place = place.var("DAEMON_UMASK", "0007").var("V", "0");
    let loaded = place.load();
    let source = |key: &str| loaded.sources[key].clone();
    assert_eq!(loaded.settings.umask, Some(0o027));
    assert_eq!(source("umask"), format!("DAEMON_UMASK in {}", file.display()));
    assert_eq!(loaded.environment, [("V".to_owned(), "1".to_owned())]);
    assert_eq!(loaded.settings.env_file.as_ref().map(Vec::len), Some(2));
    // What only the file's owner may read is shown to nobody.
    let shown = format!("{} {}", loaded.text(), loaded.json());
    assert!(shown.contains("(not shown)") && !shown.contains("\"7\""), "{shown}");
    // The file as it is then.
    write(&place, "a.env", "V=2\nW='x y'");
    let loaded = place.load();
    assert_eq!(loaded.settings.umask, Some(0o007));
    let expected = [("V", "2"), ("W", "x y")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(loaded.environment, expected);
    // A higher layer names others, or none.
    let none = place.var("DAEMON_ENV_FILE", "none");
    assert_eq!((none.load().settings.env_file, none.load().environment), (None, vec![]));
}

#[test]
fn mistakes_in_a_file_of_variables_do_not_show_it() {
    let place = Place::new(&[]).set("env_file=a.env");
    assert!(
        place.error().contains("a.env, named by `env_file`: No such file"),
        "{}",
        place.error()
    );
    let file = write(&place, "a.env", "A=1\nhush hush\nDAEMON_LGO=x");
    assert_eq!(place.error(), format!("{}, line 2: expected NAME=value", file.display()));
    write(&place, "a.env", "DAEMON_KILL_TIMEOUT=soon");
    let expected =
        format!("`kill_timeout` from DAEMON_KILL_TIMEOUT in {} is \"soon\"", file.display());
    assert!(place.error().starts_with(&expected), "{}", place.error());
    let files: Vec<String> =
        ["-/a", "/b"].map(|text| EnvFile::from(text.to_owned()).to_string()).into();
    assert_eq!(files, ["-/a", "/b"]);
}

#[test]
fn a_variable_may_name_a_file_in_place_of_the_value() {
    let place = Place::new(&[]).file("app = {user = 'me', password = 'of the file'}");
    let file = write(&place, "password", "hush hush\n");
    let place = place
        .var("DAEMON_APP__PASSWORD_FILE", file.to_str().unwrap())
        .var("DAEMON_APP__CERT_FILE", "/no/such.pem");
    let loaded = app(&place).unwrap();
    assert_eq!(loaded.password.as_deref(), Some("hush hush"));
    // A key that the type has itself is a path, whether something is there or not.
    assert_eq!(loaded.cert_file, Some("/no/such.pem".into()));
    let configuration = place.load();
    let shown = format!("{} {}", configuration.text(), configuration.json());
    assert!(shown.contains("DAEMON_APP__PASSWORD_FILE") && !shown.contains("hush"), "{shown}");

    let twice = place.var("DAEMON_APP__PASSWORD", "another");
    let error = app(&twice).unwrap_err();
    assert!(error.contains("DAEMON_APP__PASSWORD sets the same key: unset one of them"), "{error}");
    let place = Place::new(&[]).set("app.user=me").var("DAEMON_APP__PASSWORD_FILE", "no/such");
    let error = app(&place).unwrap_err();
    let path = place.dir.path().join("no/such");
    assert!(error.contains(&format!("cannot read {}: No such file", path.display())), "{error}");
    assert!(error.starts_with("`app.password_file` from DAEMON_APP__PASSWORD_FILE: "), "{error}");
}

#[test]
fn credentials_are_values_below_variables_and_above_the_file() {
    let place = Place::new(&[]).file("app = {user = 'me', password = 'of the file', pin = 1}");
    write(&place, "app.password", "hush hush");
    write(&place, "app.pin", "1234\n");
    write(&place, "other", "the program's own");
    let dir = place.dir.path().display().to_string();
    let place = place.var("CREDENTIALS_DIRECTORY", &dir);
    let loaded = app(&place).unwrap();
    assert_eq!((loaded.password.as_deref(), loaded.pin), (Some("hush hush"), 1234));
    let configuration = place.load();
    assert_eq!(configuration.sources["app.password"], "credential app.password");
    let shown = format!("{} {}", configuration.text(), configuration.json());
    assert!(!shown.contains("hush") && !shown.contains("1234"), "{shown}");
    let place = place.var("DAEMON_APP__PIN", "5");
    assert_eq!(app(&place).unwrap().pin, 5);
}

#[test]
fn a_secret_is_in_no_error() {
    let holder = Place::new(&[]);
    write(&holder, "app.pin", "hush hush");
    let dir = holder.dir.path().display().to_string();
    let file = write(&holder, "pin", "hush hush");
    let place = || Place::new(&[]).set("app.user=me");
    for place in [
        place().var("CREDENTIALS_DIRECTORY", &dir),
        place().var("DAEMON_APP__PIN_FILE", file.to_str().unwrap()),
    ] {
        let error = app(&place).unwrap_err();
        assert!(error.starts_with("`app.pin` from ") && !error.contains("hush"), "{error}");
        assert!(error.ends_with(": expected a whole number from 0 to 65535"), "{error}");
    }
    #[derive(Debug, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        _rest: std::collections::BTreeMap<String, u16>,
    }
    let place = Place::new(&[]).var("CREDENTIALS_DIRECTORY", &dir);
    let error = place.load().app::<Flat>().unwrap_err().to_string();
    assert!(error.contains("app") && !error.contains("hush"), "{error}");
}
