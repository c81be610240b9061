//! The files in `examples/deploy`: their timeouts and ports agree with the program that they deploy, their
//! formats are valid, and the rollout works as the book describes.

#![allow(clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use unbroken_tests::{Child, Sandbox, skip};

const SOON: Duration = Duration::from_secs(60);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/deploy")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).expect("a file of the example")
}

/// Parses the documents of a YAML file.
fn documents(name: &str) -> Vec<Value> {
    let text = text(name);
    let documents = serde_norway::Deserializer::from_str(&text);
    documents.map(|it| Value::deserialize(it).expect("YAML")).collect()
}

fn duration(text: &str) -> Duration {
    humantime::parse_duration(text).expect("a duration")
}

fn seconds(value: &Value) -> Duration {
    Duration::from_secs(value.as_u64().unwrap_or_else(|| panic!("{value} is no number of seconds")))
}

/// Returns the value of a key of the program's configuration with these variables.
fn configured(variables: &[(String, String)], key: &str) -> String {
    let mut check = Command::new(unbroken_tests::example::built("quickstart"));
    check.args(["check", "--json"]).env_clear().envs(variables.iter().cloned());
    let output = Child::spawn(&mut check).wait(SOON).expect_code(0);
    let keys: Value = serde_json::from_str(&output.stdout).expect("JSON");
    keys[key]["value"].as_str().unwrap_or_else(|| panic!("no {key}\n{output}")).to_owned()
}

/// The longest time that a stop may take.
fn longest_stop(variables: &[(String, String)]) -> Duration {
    let keys = ["lame_duck", "drain_timeout", "kill_timeout"];
    keys.iter().map(|key| duration(&configured(variables, key))).sum()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn pod_timeouts_and_ports_match_the_program() {
    let documents = documents("kubernetes.yaml");
    let [deployment, service] = &documents[..] else { panic!("{documents:?}") };
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let variables: Vec<(String, String)> = container["env"]
        .as_array()
        .expect("variables")
        .iter()
        .map(|it| [&it["name"], &it["value"]].map(|text| text.as_str().expect("text").to_owned()))
        .map(|[name, value]| (name, value))
        .collect();
    let grace = seconds(&pod["terminationGracePeriodSeconds"]);
    let stop = longest_stop(&variables);
    assert!(grace > stop, "{grace:?} of grace for a stop of {stop:?}");

    let patience = |probe: &str| {
        seconds(&container[probe]["periodSeconds"])
            * u32::try_from(container[probe]["failureThreshold"].as_u64().expect("a number"))
                .expect("a small one")
    };
    let ready_timeout = duration(&configured(&variables, "ready_timeout"));
    assert!(patience("startupProbe") >= ready_timeout, "killed before it can say why");
    let lame_duck = duration(&configured(&variables, "lame_duck"));
    assert!(patience("readinessProbe") <= lame_duck, "readiness fails after the lame duck");

    let ports = container["ports"].as_array().expect("ports");
    let port = |name: &str| {
        let port = ports.iter().find(|port| port["name"] == name).expect("a port of this name");
        port["containerPort"].to_string()
    };
    let of = |key: &str| configured(&variables, key).rsplit(':').next().map(str::to_owned);
    assert_eq!(of("probe"), Some(port("probe")));
    assert_eq!(of("listen.http"), Some(port("http")));
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);

    let probes =
        [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")];
    for (probe, path) in probes {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert_eq!(container[probe]["httpGet"]["port"], "probe");
    }
    let security = &container["securityContext"];
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/tmp");
}

#[test]
fn compose_and_image_match_the_program() {
    let documents = documents("compose.yaml");
    let service = &documents[0]["services"]["quickstart"];
    let of = |value: &Value| duration(value.as_str().expect("a duration"));
    let (grace, stop) = (of(&service["stop_grace_period"]), longest_stop(&[]));
    assert!(grace > stop, "{grace:?} of grace for a stop of {stop:?}");
    let ready_timeout = duration(&configured(&[], "ready_timeout"));
    let health = &service["healthcheck"];
    assert!(of(&health["start_period"]) >= ready_timeout);
    assert_eq!((&service["read_only"], strings(&service["tmpfs"])), (&true.into(), vec!["/tmp"]));

    let image = text("Dockerfile");
    let command = strings(&health["test"]);
    let words: Vec<String> = command[1..].iter().map(|word| format!("\"{word}\"")).collect();
    assert!(image.contains(&format!("CMD [{}]", words.join(", "))), "{image}");
    assert!(image.contains("--start-period=60s") && of(&health["start_period"]).as_secs() == 60);
    assert!(image.contains("\nSTOPSIGNAL SIGTERM\n") && service["stop_signal"] == "SIGTERM");
    let uid = &self::documents("kubernetes.yaml")[0]["spec"]["template"]["spec"]["securityContext"];
    assert!(
        image.contains(&format!("\nUSER {}:{}\n", uid["runAsUser"], uid["runAsGroup"])),
        "{image}"
    );
    let variable = image.lines().find_map(|line| line.strip_prefix("ENV DAEMON_LISTEN_HTTP="));
    let port = variable.and_then(|addr| addr.rsplit(':').next()).expect("a port");
    assert!(image.contains(&format!("\nEXPOSE {port}\n")), "{image}");
    assert_eq!(strings(&service["ports"]), [format!("{port}:{port}")]);
}

/// The program understands the command of both health checks.
#[test]
fn health_check_command_works() {
    let documents = documents("compose.yaml");
    let command = strings(&documents[0]["services"]["quickstart"]["healthcheck"]["test"]);
    let ["CMD", "quickstart", arguments @ ..] = &command[..] else { panic!("{command:?}") };
    let mut sandbox = Sandbox::new("http");
    sandbox.set("DAEMON_LAME_DUCK", "0s");
    sandbox.start();
    sandbox.verb(arguments).expect_code(0);
    sandbox.stop();
    sandbox.verb(arguments).expect_code(1);
}

/// The validators of the three formats, which `.ci/run` installs, accept the files.
#[test]
fn validators_accept_the_files() {
    let beside = std::env::var_os("UNBROKEN_PYTHON").map(PathBuf::from);
    let beside = beside.as_deref().and_then(Path::parent).unwrap_or(Path::new("/nowhere"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| {
        let dirs = std::env::split_paths(&path).chain([beside.to_owned()]);
        dirs.map(|dir| dir.join(name)).find(|file| file.is_file())
    };
    let checks: [(&str, &[&str], &str); 3] = [
        ("hadolint", &[], "Dockerfile"),
        ("check-jsonschema", &["--builtin-schema", "vendor.compose-spec"], "compose.yaml"),
        ("kubernetes-validate", &["--strict"], "kubernetes.yaml"),
    ];
    for (name, arguments, file) in checks {
        let Some(tool) = find(name) else {
            skip(&format!("no {name}, to check {file} of examples/deploy"));
            continue;
        };
        let mut command = Command::new(&tool);
        command.args(arguments).arg(folder().join(file));
        Child::spawn(&mut command).wait(SOON).expect_code(0);
        // The validator also rejects a file with mistakes.
        let dir = tempfile::tempdir().expect("a directory");
        let bad = dir.path().join(file);
        let wrong = text(file)
            .replace("FROM rust:1.95-slim AS", "FROM rust AS")
            .replace("healthcheck:", "health_check:")
            .replace("periodSeconds: 10", "periodSeconds: often");
        fs::write(&bad, wrong).expect("a file");
        let mut command = Command::new(&tool);
        command.args(arguments).arg(&bad);
        let output = Child::spawn(&mut command).wait(SOON);
        assert_ne!(output.code(), 0, "{output}");
    }
}

/// The second of three daemons gets a program that does not start: the rollout stops there.
#[test]
fn rollout_stops_at_the_first_failure() {
    let sandboxes = [("a", "http-v2"), ("b", "fails-at-start"), ("c", "http-v2")];
    let sandboxes = sandboxes.map(|(host, next)| {
        let sandbox = Sandbox::new("http");
        sandbox.start();
        (host, sandbox, next)
    });
    let dir = tempfile::tempdir().expect("a directory");
    // In place of ssh, a script that runs a command in the environment of a host's daemon.
    let mut cases = String::new();
    for (host, sandbox, next) in &sandboxes {
        sandbox.deploy(next);
        let command = sandbox.command(["restart"]);
        let variables = command
            .get_envs()
            .filter_map(|(name, value)| Some(format!("{}='{}'", name.to_str()?, value?.to_str()?)));
        let variables = variables.collect::<Vec<_>>().join(" ");
        cases += &format!("{host}) cd '{}'; export {variables} ;;\n", sandbox.dir().display());
    }
    let on_host = dir.path().join("on-host");
    let script = format!("#!/bin/sh\nset -eu\ncase $1 in\n{cases}esac\nexec sh -c \"$2\"\n");
    fs::write(&on_host, script).expect("a script");
    let rollout = |batch: &str| {
        let mut command = Command::new("sh");
        command.arg(folder().join("rollout.sh")).arg(fixture("http")).args([batch, "a", "b", "c"]);
        // The copy that a shell made: the file written here may be open in a child of another test, and
        // executing it would fail with ETXTBSY.
        command.env("ON_HOST", dir.path().join("run"));
        Child::spawn(&mut command).wait(SOON)
    };
    let made = Command::new("sh")
        .args(["-c", "cp \"$1\" \"$2\" && chmod 755 \"$2\"", "sh"])
        .args([&on_host, &dir.path().join("run")])
        .status();
    assert!(made.expect("a copy").success());
    let generations =
        || sandboxes.iter().map(|(_, sandbox, _)| sandbox.status().generation).collect::<Vec<_>>();

    let output = rollout("1").expect_code(1);
    assert_eq!(output.stdout, "a: ok\n", "{output}");
    assert!(
        output
            .stderr
            .contains("\nb: the worker of generation 2 exited with code 1 before it was ready\n"),
        "{output}"
    );
    assert!(output.stderr.contains("stopped; not touched: c"), "{output}");
    assert_eq!(generations(), [Some(2), Some(1), Some(1)]);
    assert!(sandboxes[2].1.status().restarts.is_empty());

    // With a good program on the second host the rollout continues.
    sandboxes[1].1.deploy("http-v2");
    let output = rollout("2").expect_code(0);
    assert_eq!(output.stdout, "a: ok\nb: ok\nc: ok\n", "{output}");
    for (_, sandbox, _) in &sandboxes {
        assert!(sandbox.get("/").expect("a response").text().contains("version=2"));
        sandbox.stop();
    }
}

fn fixture(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    test.ancestors().nth(2).expect("a directory").join(format!("fixture-{name}"))
}
