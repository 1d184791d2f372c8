//! What is there × what should be → what to write. Pure.

use crate::config::compile::CONTROLLER;
use serde_json::Value;

/// `None`: nothing differs. `now`: RFC 3339, for conditions that turn.
pub(super) fn merge(live: &Value, wanted: &Value, now: &str) -> Option<Value> {
    let mut status = wanted.clone();
    if let Some(parents) = status.get_mut("parents").and_then(Value::as_array_mut) {
        let there = live["parents"].as_array().map_or(&[][..], Vec::as_slice);
        for parent in parents.iter_mut() {
            let same = |other: &&Value| is_ours(other) && other["parentRef"] == parent["parentRef"];
            let former = there.iter().find(same).cloned().unwrap_or_default();
            date(parent, &former, now);
        }
        // Others' first, in their order: ours keep theirs, so that two controllers do not take turns.
        let mut all: Vec<Value> = there.iter().filter(|parent| !is_ours(parent)).cloned().collect();
        all.append(parents);
        *parents = all;
        return (live["parents"].as_array() != Some(parents) && !(parents.is_empty() && there.is_empty()))
            .then_some(status);
    }
    date(&mut status, live, now);
    if let Some(listeners) = status.get_mut("listeners").and_then(Value::as_array_mut) {
        for listener in listeners {
            let mut there = live["listeners"].as_array().into_iter().flatten();
            let former = there.find(|other| other["name"] == listener["name"]).cloned().unwrap_or_default();
            date(listener, &former, now);
        }
    }
    (!holds(&status, live)).then_some(status)
}

fn is_ours(parent: &Value) -> bool {
    parent["controllerName"] == CONTROLLER
}

/// `lastTransitionTime`: when the status became what it is, not when it was last written.
fn date(of: &mut Value, former: &Value, now: &str) {
    for condition in of.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
        let before = former["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == condition["type"]);
        let since = before.filter(|before| before["status"] == condition["status"]);
        let since = since.map_or_else(|| Value::from(now), |before| before["lastTransitionTime"].clone());
        condition["lastTransitionTime"] = since;
    }
}

/// Everything wanted is there; conditions of others beside ours do not count, nor does their order.
fn holds(wanted: &Value, live: &Value) -> bool {
    let Some(fields) = wanted.as_object() else { return wanted == live };
    fields.iter().all(|(name, value)| match (name.as_str(), value.as_array(), live[name].as_array()) {
        ("conditions", Some(conditions), Some(there)) => conditions.iter().all(|condition| there.contains(condition)),
        ("listeners", Some(listeners), Some(there)) => {
            let pair = |listener: &Value| there.iter().find(|other| other["name"] == listener["name"]);
            listeners.len() == there.len() && listeners.iter().all(|l| pair(l).is_some_and(|other| holds(l, other)))
        }
        // An empty list and none are one to the API server.
        (_, Some(list), None) if list.is_empty() => live[name].is_null(),
        _ => *value == live[name],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn condition(kind: &str, status: &str, since: Option<&str>) -> Value {
        let mut condition =
            json!({"type": kind, "status": status, "reason": kind, "message": "", "observedGeneration": 1});
        if let Some(since) = since {
            condition["lastTransitionTime"] = since.into();
        }
        condition
    }

    fn parent(controller: &str, name: &str, conditions: &[Value]) -> Value {
        json!({"parentRef": {"name": name}, "controllerName": controller, "conditions": conditions})
    }

    #[test]
    fn a_condition_is_dated_when_it_turns_and_written_only_then() {
        let wanted =
            json!({"conditions": [condition("Accepted", "True", None), condition("Programmed", "False", None)]});
        let live = json!({"conditions": [
            condition("Programmed", "True", Some("t1")), condition("Accepted", "True", Some("t1")),
            condition("SomebodyElses", "True", Some("t0")),
        ]});
        let status = merge(&live, &wanted, "t2").unwrap();
        assert_eq!(status["conditions"][0]["lastTransitionTime"], "t1");
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "t2");
        let mut after = live.clone();
        after["conditions"] = json!([status["conditions"][1], status["conditions"][0], live["conditions"][2]]);
        assert_eq!(merge(&after, &wanted, "t3"), None);
        let mut newer = wanted;
        newer["conditions"][0]["observedGeneration"] = 2.into();
        assert!(merge(&after, &newer, "t3").is_some(), "a generation that was not observed yet");
    }

    #[test]
    fn other_controllers_parents_stay() {
        let wanted = json!({"parents": [parent(CONTROLLER, "gw", &[condition("Accepted", "True", None)])]});
        let theirs = parent("example.com/c", "gw", &[condition("Accepted", "False", Some("t0"))]);
        let stale = parent(CONTROLLER, "gone", &[condition("Accepted", "True", Some("t0"))]);
        let live = json!({"parents": [stale, theirs]});
        let status = merge(&live, &wanted, "t1").unwrap();
        let all = status["parents"].as_array().unwrap();
        assert_eq!((all.len(), &all[0]), (2, &theirs));
        assert_eq!(all[1]["conditions"][0]["lastTransitionTime"], "t1");
        assert_eq!(merge(&status, &wanted, "t2"), None);
        assert_eq!(merge(&Value::Null, &json!({"parents": []}), "t2"), None, "a route that never was ours");
        let left = merge(&status, &json!({"parents": []}), "t2").unwrap();
        assert_eq!(left["parents"], json!([theirs]));
    }

    #[test]
    fn listeners_are_compared_by_name() {
        let listener = |name: &str, routes: u32, since| json!({"name": name, "attachedRoutes": routes, "conditions": [condition("Accepted", "True", since)]});
        let wanted = json!({"addresses": [], "listeners": [listener("a", 1, None), listener("b", 0, None)]});
        let live = json!({"listeners": [listener("b", 0, Some("t0")), listener("a", 1, Some("t0"))]});
        assert_eq!(merge(&live, &wanted, "t1"), None);
        let more = json!({"addresses": [], "listeners": [listener("a", 2, None), listener("b", 0, None)]});
        assert_eq!(merge(&live, &more, "t1").unwrap()["listeners"][0]["attachedRoutes"], 2);
        let fewer = json!({"addresses": [], "listeners": [listener("a", 1, None)]});
        assert!(merge(&live, &fewer, "t1").is_some());
    }
}
