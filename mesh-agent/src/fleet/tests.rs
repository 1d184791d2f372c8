//! Pods as the API server lists them.

use super::*;
use serde_json::json;

fn api() -> Api<Pod> {
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    Api::namespaced(Client::try_from(config).unwrap(), "mesh")
}

fn pod(name: &str, node: &str, ending: bool, state: &serde_json::Value, ready: bool) -> Pod {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Pending", "containerStatuses": [
            {"name": "agent", "ready": ready, "image": "", "imageID": "", "restartCount": 0, "state": state}
        ]}
    });
    if ending {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    serde_json::from_value(pod).unwrap()
}

#[tokio::test]
async fn each_node_has_one_agent_and_who_is_silent_says_why() {
    let running = json!({"running": {}});
    let stuck = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
    let pods = [
        pod("old", "n1", true, &running, true),
        pod("new", "n1", false, &running, false),
        pod("stuck", "n2", false, &stuck, false),
        pod("going", "n3", true, &running, true),
    ];
    let members = one_each(pods.iter().map(|pod| member(pod, &api())));
    let said: Vec<_> = members.iter().map(|m| (&*m.node, &*m.pod, m.ready, m.silent.as_deref())).collect();
    let stuck = Some("its pod does not run: ImagePullBackOff no such image");
    let wanted =
        [("n1", "new", false, None), ("n2", "stuck", false, stuck), ("n3", "going", true, Some("its pod is ending"))];
    assert_eq!(said, wanted);
}

#[tokio::test]
async fn a_node_without_agent_is_answered_with_those_that_have_one() {
    let members = one_each([pod("a", "n1", false, &json!({"running": {}}), true)].iter().map(|p| member(p, &api())));
    let fleet = Fleet { server: "s".into(), wanted: Some(2), members };
    assert_eq!(fleet.on("n1").unwrap().pod, "a");
    let error = fleet.on("n2").err().unwrap().to_string();
    assert_eq!(error, "node n2 has no agent; there are agents on n1");
}
