//! The plugin as a runtime calls it, in front of an agent that a script plays.

use mesh_cni::note;
use mesh_cni::wire::{self, Answer, Ask, Attachment};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use tempfile::TempDir;

const UID: &str = "0c1e6a3e-57a5-4b1e-9a55-0d4f3a2b1c0d";
const ARGS: &str =
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=";

fn previous() -> Value {
    json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.3/24", "interface": 0}], "interfaces": [{"name": "eth0"}]})
}

fn config(dir: &Path, policy: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "kn", "type": "undermesh-cni", "runDir": dir, "failurePolicy": policy,
        "exempt": ["kube-system"], "timeoutSeconds": 1, "prevResult": previous(),
    })
}

/// What a runtime sees: standard output, or the error's code and text.
fn call(command: &str, config: &Value, args: &str) -> Result<String, (u64, String)> {
    let env = |name: &str| {
        Some(match name {
            "CNI_COMMAND" => command.to_owned(),
            "CNI_CONTAINERID" => "c1".to_owned(),
            // Any file does: what is sent is what was opened.
            "CNI_NETNS" => "/proc/self/ns/net".to_owned(),
            "CNI_ARGS" => args.to_owned(),
            _ => return None,
        })
    };
    mesh_cni::run(env, config.to_string().as_bytes()).map_err(|failure| {
        let error: Value = serde_json::from_str(&failure.to_json()).unwrap();
        assert_eq!(error["cniVersion"], "1.0.0");
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_owned())
    })
}

fn pod() -> Attachment {
    Attachment { container: "c1".into(), namespace: "shop".into(), name: "web-1".into(), uid: UID.into() }
}

fn args() -> String {
    format!("{ARGS}{UID}")
}

/// Answers one question after another; hands back what it was asked, and the inode of what came along.
fn agent(dir: &TempDir, answers: Vec<Option<Answer>>) -> JoinHandle<Vec<(Ask, Option<u64>)>> {
    let socket = UnixListener::bind(dir.path().join(wire::SOCKET)).unwrap();
    thread::spawn(move || answers.into_iter().map(|answer| one(&socket.accept().unwrap().0, answer)).collect())
}

/// `None`: it ends without a word.
fn one(stream: &UnixStream, answer: Option<Answer>) -> (Ask, Option<u64>) {
    let (mut line, mut with) = (Vec::new(), None);
    while !line.ends_with(b"\n") {
        assert!(wire::receive(stream, &mut line, &mut with).unwrap() > 0);
    }
    if let Some(answer) = answer {
        wire::send(stream, &wire::line(&answer), None).unwrap();
    }
    (serde_json::from_slice(&line).unwrap(), with.map(|fd| File::from(fd).metadata().unwrap().ino()))
}

#[test]
fn a_pod_starts_when_the_agent_has_it_or_does_not_want_it() {
    for answer in [Answer::In, Answer::Outside("namespace is not labelled".into())] {
        let dir = tempfile::tempdir().unwrap();
        let agent = agent(&dir, vec![Some(answer)]);
        let said = call("ADD", &config(dir.path(), "closed"), &args()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), previous(), "the network is the others'");
        let inode = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(agent.join().unwrap(), [(Ask::Join(pod()), Some(inode))]);
        assert!(note::all(dir.path()).is_empty());
    }
}

#[test]
fn an_agent_that_is_replaced_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(&dir, vec![None, Some(Answer::In)]);
    call("ADD", &config(dir.path(), "closed"), &args()).unwrap();
    assert_eq!(agent.join().unwrap().len(), 2);
}

#[test]
fn without_the_agent_the_failure_policy_decides() {
    let dir = tempfile::tempdir().unwrap();
    // After a reboot there is no folder.
    let gone = dir.path().join("run");
    let (code, text) = call("ADD", &config(&gone, "closed"), &args()).unwrap_err();
    assert_eq!(code, 11, "{text}");
    assert!(text.contains("shop/web-1") && text.contains("closed"), "{text}");
    assert!(note::all(&gone).is_empty(), "it did not begin");

    call("ADD", &config(&gone, "open"), &args()).unwrap();
    let notes = note::all(&gone);
    assert_eq!((notes.len(), &notes[0].of), (1, &pod()));
    assert!(notes[0].began > 1_700_000_000 && notes[0].why.contains("does not answer"), "{notes:?}");
    // The sandbox goes, and with it what was to be told; again, and without an agent: no error.
    for _ in 0..2 {
        assert_eq!(call("DEL", &config(&gone, "closed"), &args()), Ok(String::new()));
        assert!(note::all(&gone).is_empty());
    }
    let system = args().replace("shop", "kube-system");
    call("ADD", &config(&gone, "closed"), &system).expect("those start without which there would be no agent");
}

#[test]
fn an_agent_that_is_late_is_as_none_but_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let late = || Some(Answer::Late("its namespace cannot be entered".into()));
    let agent = agent(&dir, vec![late(), late(), late(), late()]);
    let (code, text) = call("ADD", &config(dir.path(), "closed"), &args()).unwrap_err();
    assert!(code == 11 && text.contains("cannot be entered"), "{text}");
    call("ADD", &config(dir.path(), "open"), &args()).unwrap();
    assert_eq!(note::all(dir.path())[0].why, "its namespace cannot be entered");
    let (code, text) = call("CHECK", &config(dir.path(), "open"), &args()).unwrap_err();
    assert!(code == 100 && text.contains("cannot be entered"), "{text}");
    // GC: of what the runtime still has nothing is forgotten.
    let mut valid = config(dir.path(), "open");
    valid["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    assert_eq!(call("GC", &valid, ""), Ok(String::new()));
    assert_eq!(note::all(dir.path()).len(), 1);
    valid["cni.dev/valid-attachments"] = json!([]);
    assert_eq!(call("GC", &valid, ""), Ok(String::new()));
    assert!(note::all(dir.path()).is_empty());
    call("DEL", &config(dir.path(), "open"), &args()).unwrap();
    assert_eq!(agent.join().unwrap()[3].0, Ask::Leave(pod()));
}

#[test]
fn versions_status_and_what_is_malformed() {
    let dir = tempfile::tempdir().unwrap();
    let good = config(dir.path(), "closed");
    let versions: Value = serde_json::from_str(&call("VERSION", &json!({"cniVersion": "1.1.0"}), "").unwrap()).unwrap();
    assert_eq!(versions["cniVersion"], "1.1.0");
    assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!("0.3.1")));
    assert_eq!(call("STATUS", &good, ""), Ok(String::new()), "the node stays ready while the agent is away");
    let code = |command: &str, config: &Value, args: &str| call(command, config, args).unwrap_err().0;
    let with = |name: &str, value: Value| {
        let mut config = good.clone();
        config[name] = value;
        config
    };
    assert_eq!(code("ADD", &with("cniVersion", json!("0.2.0")), &args()), 7);
    assert_eq!(code("ADD", &with("failurePolicy", json!("ajar")), &args()), 7);
    assert_eq!(code("ADD", &with("prevResult", Value::Null), &args()), 7);
    assert_eq!(code("ADD", &good, "IgnoreUnknown=1"), 4, "no pod is named");
    assert_eq!(code("FETCH", &good, &args()), 4);
    assert_eq!(call("ADD", &with("failurePolicy", json!("open")), ""), Ok(previous().to_string()));
    // No way out of the folder.
    let outside = note::Note::now(Attachment { container: "../x".into(), ..pod() }, String::new());
    assert!(note::leave(dir.path(), &outside).is_err());
}
