//! Recorded sequences: duplicates, reordering, deletes, lists after 410.

use super::*;
use crate::config::source::kube::journal::Journal;
use serde_json::json;

fn service(name: &str, uid: &str, version: u64, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "resourceVersion": version.to_string(), "managedFields": [{"manager": "x"}]},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": port}]}, "status": {"loadBalancer": {}}})
}

fn services() -> Scope {
    Scope::all(Kind::Service)
}

/// `+name` and `-name`, in the order in which they are put in force.
fn changes(store: &mut Store) -> Vec<String> {
    let changes = store.take().changes;
    let gone = changes.deletes.iter().map(|key| format!("-{}", key.name));
    gone.chain(changes.upserts.iter().map(|r| format!("+{}", r.key.name))).collect()
}

fn list(store: &mut Store, objects: &[Value]) {
    store.hear(&services(), Heard::ListBegins);
    for object in objects {
        store.hear(&services(), Heard::Listed(object.clone()));
    }
    store.hear(&services(), Heard::ListEnds);
}

#[test]
fn what_is_heard_twice_changes_nothing() {
    let mut store = Store::new("n1");
    assert!(!store.is_complete(&services()));
    list(&mut store, &[service("a", "u1", 5, 80)]);
    assert!(store.is_complete(&services()));
    assert_eq!(changes(&mut store), ["+a"]);
    // Only what nobody reads is different.
    let mut busy = service("a", "u1", 6, 80);
    busy["status"] = json!({"conditions": [{"type": "x"}]});
    busy["metadata"]["annotations"] = json!({"example.com/seen": "now"});
    store.hear(&services(), Heard::Put(busy));
    assert_eq!(changes(&mut store), [""; 0]);
    store.hear(&services(), Heard::Put(service("a", "u1", 7, 81)));
    store.hear(&services(), Heard::Put(service("a", "u1", 8, 82)));
    assert_eq!(changes(&mut store), ["+a"], "one change for one batch");
}

#[test]
fn a_list_after_410_is_a_difference_and_never_a_clear() {
    let mut store = Store::new("n1");
    list(&mut store, &[service("a", "u1", 1, 80), service("b", "u2", 2, 80), service("c", "u3", 3, 80)]);
    changes(&mut store);
    store.hear(&services(), Heard::ListBegins);
    store.hear(&services(), Heard::Listed(service("c", "u3", 9, 81)));
    assert_eq!(changes(&mut store), ["+c"], "nothing goes before the list is whole");
    store.hear(&services(), Heard::Listed(service("a", "u1", 1, 80)));
    // The server breaks off and begins anew.
    store.hear(&services(), Heard::ListBegins);
    store.hear(&services(), Heard::Listed(service("a", "u1", 1, 80)));
    store.hear(&services(), Heard::Listed(service("c", "u3", 9, 81)));
    store.hear(&services(), Heard::ListEnds);
    assert_eq!(changes(&mut store), ["-b"]);
}

#[test]
fn late_news_of_a_former_object_is_not_believed() {
    let mut store = Store::new("n1");
    list(&mut store, &[service("a", "old", 1, 80)]);
    changes(&mut store);
    store.hear(&services(), Heard::Put(service("a", "new", 5, 81)));
    store.hear(&services(), Heard::Gone(service("a", "old", 4, 80)));
    store.hear(&services(), Heard::Put(service("a", "new", 4, 79)));
    assert_eq!(changes(&mut store), ["+a"]);
    assert_eq!(store.len(), 1);
    store.hear(&services(), Heard::Gone(service("a", "new", 6, 81)));
    assert_eq!((changes(&mut store), store.len()), (vec!["-a".to_owned()], 0));
    store.hear(&services(), Heard::Gone(service("a", "new", 6, 81)));
    assert_eq!(changes(&mut store), [""; 0]);
    // Another server, restored from a backup, counts from below: its list is the truth.
    list(&mut store, &[service("a", "new", 90, 80)]);
    list(&mut store, &[service("a", "new", 3, 81)]);
    assert_eq!(changes(&mut store), ["+a"]);
    store.hear(&services(), Heard::Put(service("a", "new", 4, 82)));
    assert_eq!(changes(&mut store), ["+a"]);
}

#[test]
fn a_kind_that_is_not_served_any_more_takes_its_objects_along() {
    let mut store = Store::new("n1");
    list(&mut store, &[service("a", "u1", 1, 80)]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    store.hear(&Scope::all(Kind::Node), Heard::Put(node));
    changes(&mut store);
    store.forget(&services());
    assert_eq!(changes(&mut store), ["-a"]);
    assert_eq!(store.len(), 1);
}

#[test]
fn a_broken_object_leaves_its_last_good_version_in_force() {
    let mut store = Store::new("n1");
    list(&mut store, &[service("a", "u1", 1, 80)]);
    changes(&mut store);
    let mut broken = service("a", "u1", 2, 80);
    broken["spec"]["ports"] = json!("none");
    store.hear(&services(), Heard::Put(broken));
    assert_eq!(changes(&mut store), [""; 0]);
    let codes: Vec<_> = store.findings().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::BadField, Code::LastGoodKept]);
    store.hear(&services(), Heard::Put(service("a", "u1", 3, 81)));
    assert_eq!((changes(&mut store), store.findings().count()), (vec!["+a".to_owned()], 0));
}

#[test]
fn other_nodes_pods_keep_their_names_only() {
    let pod = |node: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop", "uid": "u",
                "annotations": {"undermesh.dev/netns": "/proc/1/ns/net", "sidecar.istio.io/inject": "true", "x/y": "z"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "env": [], "ports": [{"containerPort": 80}]}], "volumes": []},
            "status": {"podIP": "10.0.0.1", "containerStatuses": [], "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "x"}, {"type": "PodScheduled"}]}})
    };
    let mut own = pod("n1");
    trim(Kind::Pod, &mut own, "n1");
    let want = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "annotations": {"sidecar.istio.io/inject": "true"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]},
        "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(own, want, "no pod tells the agent which namespace to enter");
    let mut other = pod("n2");
    trim(Kind::Pod, &mut other, "n1");
    assert_eq!(other["spec"], json!({"nodeName": "n2"}));
    let mut secret = json!({"metadata": {"name": "s"}, "data": {"tls.key": "a", "password": "b"}});
    trim(Kind::Secret, &mut secret, "n1");
    assert_eq!(secret["data"], json!({"tls.key": "a"}));
}

#[test]
fn the_next_run_begins_where_the_last_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects");
    let mut journal = Journal::new(path.clone());
    let mut store = Store::new("n1");
    list(&mut store, &[service("a", "u1", 1, 80), service("b", "u2", 2, 80)]);
    journal.append(&store.take().lines, store.len()).unwrap();
    // More changes than objects: the file is written anew, and stays small.
    for n in 0..3_000 {
        store.hear(&services(), Heard::Put(service("a", "u1", n + 3, if n % 2 == 0 { 1 } else { 2 })));
        journal.append(&store.take().lines, store.len()).unwrap();
    }
    store.hear(&services(), Heard::Gone(service("b", "u2", 9_000, 80)));
    store.hear(&services(), Heard::Put(service("c", "u4", 9_001, 80)));
    journal.append(&store.take().lines, store.len()).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().lines().count() < 2_100);
    // A crash tears the last line.
    use std::io::Write;
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"kind\":\"Service\",\"na").unwrap();

    let (objects, unread) = Journal::new(path.clone()).read().unwrap();
    assert_eq!((objects.len(), unread), (2, 0));
    let mut next = Store::new("n1");
    for (key, object) in objects {
        next.restore(key, object);
    }
    assert_eq!(changes(&mut next), ["+a", "+c"]);
    // The server says that one of them is as it was and the other is gone.
    list(&mut next, &[service("a", "u1", 9_900, 2)]);
    assert_eq!(changes(&mut next), ["-c"]);
    // What was heard counts more than the disk.
    next.restore(ObjectKey::new(Kind::Service, "shop", "late"), service("late", "u5", 1, 80));
    assert_eq!(changes(&mut next), [""; 0]);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn two_stores_that_hold_the_same_stand_the_same_however_they_came_to_it() {
    let (mut one, mut other) = (Store::new("n1"), Store::new("n2"));
    list(&mut one, &[service("a", "u1", 1, 80), service("b", "u2", 2, 80)]);
    let before = one.standing();
    list(&mut other, &[service("b", "u2", 2, 81), service("c", "u3", 3, 80)]);
    assert_ne!(one.standing().1, other.standing().1);
    other.hear(&services(), Heard::Gone(service("c", "u3", 4, 80)));
    other.hear(&services(), Heard::Put(service("b", "u2", 5, 80)));
    other.hear(&services(), Heard::Put(service("a", "u1", 6, 80)));
    assert_eq!(one.standing().1, other.standing().1);
    assert_eq!((before.0, other.standing().0), (2, 6), "the newest of all that was heard");
    // A pod is another thing to its own node.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop", "uid": "u"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}});
    for store in [&mut one, &mut other] {
        store.hear(&Scope::all(Kind::Pod), Heard::Put(pod.clone()));
    }
    assert_eq!(one.standing().1, other.standing().1);
    one.forget(&services());
    assert_eq!(one.standing().1, 0);
}
