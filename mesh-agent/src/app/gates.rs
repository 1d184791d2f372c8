//! Ports of gateway pods: opened inside the pods' network namespaces as the snapshot says.
//!
//! Opening comes after the snapshot that wants it is published, closing before the one that does not; accepted
//! connections go on. What cannot be opened is tried again at every tick and named once.

use super::parts::Captured;
use crate::kernel::Netns;
use crate::snapshot::{Enrolment, Snapshot, Workload, WorkloadKey};
use crate::worker::Listening;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Gates {
    known: BTreeMap<(WorkloadKey, u16), Gate>,
}

#[derive(Debug)]
struct Gate {
    /// As the listener's connections know it.
    workload: Arc<Workload>,
    /// The listener is closed when dropped; the reason where it could not be opened.
    listening: Result<(Netns, Listening), String>,
}

impl Gates {
    /// Closes what `snapshot` does not want (any more). Call it before the snapshot is published.
    pub(super) fn release(&mut self, snapshot: &Snapshot) {
        self.known.retain(|(pod, port), _| snapshot.gateway_listener(pod, *port).is_some());
    }

    pub(super) fn close(&mut self) {
        self.known.clear();
    }

    /// Opens what `snapshot` wants. Call it when the snapshot is published, and at every tick.
    pub(super) async fn open(&mut self, snapshot: &Snapshot, parts: &Captured) {
        for (key, gateway) in snapshot.gateways() {
            let Some(workload) = snapshot.workload(key) else { continue };
            let Enrolment::Enrolled { netns } = &workload.enrolment else { continue };
            for port in gateway.listeners.iter().map(|listener| listener.port) {
                let place = (key.clone(), port);
                let known = self.known.get(&place);
                if let Some(Gate { workload: of, listening: Ok((opened, _)) }) = known
                    && of == workload
                    && !parts.is_replaced(netns, opened).await
                {
                    continue;
                }
                let former = known.and_then(|gate| gate.listening.as_ref().err()).cloned();
                // The new listener shares the port with the former one, which closes when it is replaced.
                let listening = parts.open_gate(workload, netns, port).await.map_err(|error| error.to_string());
                match &listening {
                    Ok(_) => {
                        tracing::info!(pod = %key, port, gateways = %gateway.names.join(", "), "gateway port open");
                    }
                    Err(why) if former.as_ref() == Some(why) => {}
                    Err(why) => tracing::warn!(pod = %key, port, "cannot open a gateway's port, trying again: {why}"),
                }
                self.known.insert(place, Gate { workload: Arc::clone(workload), listening });
            }
        }
    }
}
