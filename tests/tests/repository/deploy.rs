//! The files in `deploy/` fit together, and to the command that they start: options that it
//! has, time enough to hand back, names that are unique. (That their formats are right is
//! checked by the step `deploy` of `tests/run.sh`.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;
use streamlease_tests::RedisServer;

use crate::files::{self, root};

#[test]
fn pods_are_given_the_time_that_they_need_to_hand_back() {
    let pod = &deployment()["spec"]["template"]["spec"];
    let options = options(&args(&container()));
    let pre_stop = number(&container()["lifecycle"]["preStop"]["sleep"]["seconds"]);
    let given = number(&pod["terminationGracePeriodSeconds"]);
    let needed = Duration::from_secs(pre_stop) + time_to_stop(&options);
    assert!(Duration::from_secs(given) > needed, "{given} s, {needed:?}");
}

#[test]
fn each_pod_is_a_consumer_with_a_name_of_its_own() {
    let container = container();
    let env = named(&container["env"]);
    let name = &env["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(name.as_str(), Some("metadata.name"));
    let options = options(&args(&container));
    assert!(!options.contains_key("consumer"), "{options:?}");
    // A password is in a secret, and in no argument.
    assert!(!options.contains_key("redis"), "{options:?}");
    assert!(!env["STREAMLEASE_REDIS"]["valueFrom"]["secretKeyRef"].is_null());
}

#[test]
fn probes_ask_where_the_command_answers() {
    let container = container();
    let options = options(&args(&container));
    let ports = named(&container["ports"]);
    let port = number(&ports["http"]["containerPort"]);
    assert_eq!(options["http"], format!("0.0.0.0:{port}"));
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let asked = &container[probe]["httpGet"];
        assert_eq!(asked["path"].as_str(), Some(path));
        assert_eq!(asked["port"].as_str(), Some("http"));
    }
}

#[test]
fn pods_are_stopped_one_after_the_other_and_never_throttled() {
    let documents = yaml("deploy/kubernetes.yaml");
    let deployment = deployment();
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let budget = of_kind(&documents, "PodDisruptionBudget");
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(number(&budget["spec"]["maxUnavailable"]), 1);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
    assert!(number(&deployment["spec"]["replicas"]) > 1);
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    assert_eq!(number(&rolling["maxUnavailable"]), 0);
    assert!(container()["resources"]["limits"]["cpu"].is_null());
}

#[test]
fn systemd_waits_until_the_command_has_handed_back() {
    let unit = unit();
    let command: Vec<_> = unit["ExecStart"].split_whitespace().collect();
    assert!(command[0].ends_with("/streamlease"), "{command:?}");
    let command: Vec<_> = command[1..].iter().map(|word| (*word).to_owned()).collect();
    let options = options(&command);
    let given = duration(&unit["TimeoutStopSec"]);
    assert!(given > time_to_stop(&options), "{given:?}, {options:?}");
    assert_eq!(options["consumer"], "%H");
    // A password is in a file, and in no argument.
    assert!(!options.contains_key("redis"), "{options:?}");
    assert_eq!(unit["EnvironmentFile"], "/etc/streamlease/%i.env");
    // The command tells its programs to stop.
    assert_eq!(unit["KillMode"], "mixed");
    assert_eq!(unit["Restart"], "on-failure");
    assert_eq!(unit["RestartPreventExitStatus"], "2");
}

#[test]
fn compose_waits_until_the_command_has_handed_back() {
    let compose = yaml("deploy/docker-compose.yml");
    let services = &compose[0]["services"];
    let worker = &services["worker"];
    let options = options(&[&["work".to_owned()][..], &texts(&worker["command"])].concat());
    let given = duration(worker["stop_grace_period"].as_str().expect("a time"));
    assert!(given > time_to_stop(&options), "{given:?}, {options:?}");
    let entrypoint = texts(&worker["entrypoint"]).join(" ");
    assert!(
        entrypoint.contains("exec streamlease work --consumer \"$$HOSTNAME\""),
        "signals reach it, and each has a name of its own: {entrypoint}"
    );
    for file in ["redis.conf", "Dockerfile"] {
        assert!(root().join("deploy").join(file).is_file());
        let text = read("deploy/docker-compose.yml");
        assert!(text.contains(file), "{file}");
    }
    let submit = texts(&services["submit"]["entrypoint"]);
    for service in ["worker", "submit"] {
        let url = &services[service]["environment"]["STREAMLEASE_REDIS"];
        assert_eq!(url.as_str(), Some("redis://redis/"), "{service}");
    }
    assert_eq!(options["service"], self::options(&submit[1..])["service"]);
}

#[test]
fn the_image_is_of_pinned_versions_and_does_not_run_as_root() {
    let dockerfile = read("deploy/Dockerfile");
    let steps: Vec<_> = dockerfile
        .lines()
        .filter(|line| !line.starts_with('#') && !line.starts_with(' '))
        .filter_map(|line| line.split_once(' '))
        .collect();
    let of = |name: &'static str| steps.iter().filter(move |step| step.0 == name);
    for (_, image) in of("FROM") {
        let image = image.split(' ').next().unwrap_or_default();
        let (_, tag) = image.split_once(':').expect("a tag");
        assert_ne!(tag, "latest");
    }
    let manifest = read("Cargo.toml");
    let msrv = manifest.split("rust-version = \"").nth(1).expect("MSRV");
    let msrv = &msrv[..msrv.find('"').expect("its end")];
    let builder = of("FROM").next().expect("a builder").1;
    assert!(builder.starts_with(&format!("rust:{msrv}-")), "{builder}");
    let user = of("USER").next_back().expect("a user").1;
    assert!(!user.starts_with('0') && user != "root", "{user}");
    let build = of("RUN").find(|step| step.1.starts_with("cargo build"));
    let build = build.expect("a build").1;
    assert!(build.contains(" --locked "), "{build}");
    assert!(build.contains("-p streamlease-cli "), "{build}");
    let feature = build.split("--features ").nth(1).expect("TLS").trim();
    let cli = read("crates/cli/Cargo.toml");
    assert!(cli.contains(&format!("\n{feature} = ")), "{feature}");
    let entry = of("ENTRYPOINT").next().expect("an entry point").1;
    assert!(entry.starts_with('['), "signals reach the command: {entry}");
}

#[test]
fn the_settings_for_redis_are_those_that_it_starts_with() {
    let text = read("deploy/redis.conf");
    // Also what is switched off: it has to be right for those who switch it on.
    let lines = text.lines().map(|line| line.trim_start_matches("# "));
    let settings: Vec<_> = lines.filter(|line| line.split(' ').count() == 2).collect();
    assert!(settings.len() > 4, "only {settings:?}");
    let server = settings
        .iter()
        .fold(RedisServer::builder(), |server, line| server.config(*line))
        .start();
    for setting in settings {
        let (name, value) = setting.split_once(' ').expect("two words");
        let set: Vec<String> = server.run(&["CONFIG", "GET", name]);
        let sorted = |text: &str| text.chars().collect::<BTreeSet<_>>();
        assert_eq!(sorted(&set[1]), sorted(value), "{set:?}");
    }
}

#[test]
fn the_command_has_every_option_that_it_is_given() {
    let known = known_options();
    assert!(known.len() > 15, "only {known:?}");
    let compose = yaml("deploy/docker-compose.yml");
    let services = &compose[0]["services"];
    let mut given = BTreeSet::new();
    given.extend(options(&args(&container())).into_keys());
    given.extend(options(&texts(&services["worker"]["command"])).into_keys());
    given.extend(options(&texts(&services["submit"]["entrypoint"])).into_keys());
    let unit = unit()["ExecStart"].clone();
    let words: Vec<_> = unit.split_whitespace().map(str::to_owned).collect();
    given.extend(options(&words).into_keys());
    assert!(given.len() > 6, "only {given:?}");
    let unknown: Vec<_> = given.difference(&known).collect();
    assert!(unknown.is_empty(), "the command has no {unknown:?}");
    let source = read("crates/cli/src/args/mod.rs");
    assert!(
        source.contains("\"STREAMLEASE_REDIS\""),
        "it reads another variable"
    );
}

/// What `work` may take to end after its SIGTERM: its programs' grace, and the time for which
/// a server that is away is waited for.
fn time_to_stop(options: &BTreeMap<String, String>) -> Duration {
    duration(&options["grace"]) + 2 * duration(&options["ttl"])
}

/// `--name=value` and `--name value`, up to the program of `--exec`.
fn options(words: &[String]) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else {
            continue;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (name, words.next().cloned().unwrap_or_default()),
        };
        options.insert(name.to_owned(), value);
        if name == "exec" {
            break;
        }
    }
    options
}

/// The long options in the command's sources: fields below `#[arg(long…)]`.
fn known_options() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for file in ["mod", "work"] {
        let source = read(&format!("crates/cli/src/args/{file}.rs"));
        for field in source.split("#[arg(").skip(1) {
            let (attribute, rest) = field.split_once(")]").expect("its end");
            let name = rest.trim_start().strip_prefix("pub(crate) ");
            let name = name.and_then(|rest| rest.split(':').next());
            if let Some(name) = name.filter(|_| attribute.contains("long")) {
                known.insert(name.replace('_', "-"));
            }
        }
    }
    known
}

fn deployment() -> Value {
    of_kind(&yaml("deploy/kubernetes.yaml"), "Deployment").clone()
}

fn container() -> Value {
    deployment()["spec"]["template"]["spec"]["containers"][0].clone()
}

fn args(container: &Value) -> Vec<String> {
    texts(&container["args"])
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents
        .iter()
        .filter(|document| document["kind"].as_str() == Some(kind));
    let document = found.next().expect("one of that kind");
    assert!(found.next().is_none(), "more than one {kind}");
    document
}

/// A list of things with names.
fn named(list: &Value) -> BTreeMap<String, Value> {
    let list = list.as_array().expect("a list").iter();
    list.map(|of| (of["name"].as_str().expect("a name").to_owned(), of.clone()))
        .collect()
}

fn texts(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    list.map(|text| text.as_str().expect("a text").to_owned())
        .collect()
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("no number: {value}"))
}

fn duration(text: &str) -> Duration {
    let seconds = text.strip_suffix('s').expect("seconds");
    Duration::from_secs(seconds.parse().expect("a number"))
}

/// The settings of `[Service]`, with lines that go on put together.
fn unit() -> BTreeMap<String, String> {
    let text = read("deploy/streamlease-work@.service").replace("\\\n", " ");
    let (_, service) = text.split_once("[Service]\n").expect("a section");
    let service = service.split("\n[").next().expect("its end");
    service
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The documents of a file.
fn yaml(file: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(&read(file))
        .map(|document| Value::deserialize(document).unwrap_or_else(|err| panic!("{file}: {err}")))
        .collect()
}

fn read(file: &str) -> String {
    files::read(&root().join(file))
}
