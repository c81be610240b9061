//! What `check` prints.

use super::*;

fn place() -> Place {
    Place::new(&[
        ("listen.api", Literal::Str("unix:/s.sock")),
        ("listen.web", Literal::Str("[::]:80")),
    ])
    .file("umask = 0o27\n[listen.api]\nmode = 0o660\n[app]\ntitle = 'a b'\n[app.db]\npool = 3")
    .var("DAEMON_APP__DB__NAME", "x")
}

#[test]
fn text_has_each_key_with_value_and_source() {
    let place = place();
    let text = place.short(&place.load().text());
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "name = hello # default",
        "drain_timeout = 30s # default",
        "graceful_restart = true # attribute at src/main.rs:3",
        "umask = 0027 # FILE: umask",
        "config = FILE # --set config",
        "log = stderr; when detached /tmp/hello-1000/hello.log # default",
        "workdir = / when detached, else the starting directory # default",
        "exe = the path of start # default",
        "listen.api = unix:/s.sock # attribute at src/main.rs:3",
        "listen.api.backlog = 4096 # default",
        "listen.api.mode = 0660 # FILE: listen.api.mode",
        "listen.api.user = the daemon's own # default",
        "listen.web.v6only = true # default",
        "app.title = \"a b\" # FILE: app.title",
        "app.db.pool = 3 # FILE: app.db.pool",
        "app.db.name = \"x\" # DAEMON_APP__DB__NAME",
    ] {
        assert!(lines.iter().any(|l| l == line), "{line}\n{text}");
    }
    for key in KEYS {
        assert!(lines.iter().any(|l| l.starts_with(&format!("{} = ", key.name))), "{}", key.name);
    }
    assert!(!text.contains("listen.web.mode") && !text.contains("listen.api.v6only"));
    let columns: std::collections::BTreeSet<_> = text.lines().map(|l| l.find(" = ")).collect();
    assert_eq!(columns.len(), 1, "{text}");
    assert!(text.lines().all(|line| line.trim_end() == line));
}

#[test]
fn json_has_one_shape() {
    let json = place().load().json();
    assert_eq!(json["name"], serde_json::json!({"value": "hello", "source": "default"}));
    assert_eq!(json["drain_timeout"]["value"], "30s");
    assert_eq!(json["umask"]["value"], "0027");
    assert_eq!(json["workdir"], serde_json::json!({"value": null, "source": "default"}));
    assert_eq!(json["listen.web.mode"], serde_json::json!({"value": null, "source": "default"}));
    assert_eq!(json["app.db.pool"]["value"], 3);
    let solo = Place::solo(&[]).load();
    assert_eq!(solo.json()["restart"], serde_json::json!({"value": null, "source": "default"}));
    assert!(solo.text().contains("not used without graceful_restart"));
    for entry in json.as_object().unwrap().values() {
        assert_eq!(entry.as_object().unwrap().len(), 2);
    }
    for key in KEYS {
        assert!(json[key.name].is_object() && solo.json()[key.name].is_object(), "{}", key.name);
    }
}
