//! Readiness and restarts, as far as a lab needs a kubelet.

use super::inner::{Inner, lock};
use super::pod::PodInner;
use anyhow::Result;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How often a kubelet looks. A real one takes a second or more; nobody's data path may depend on it.
const PERIOD: Duration = Duration::from_millis(200);
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Watches main processes until the lab stops.
pub(super) fn start(lab: &Arc<Inner>) -> Result<JoinHandle<()>> {
    let lab = Arc::downgrade(lab);
    Ok(thread::Builder::new().name("lab-kubelet".to_owned()).spawn(move || watch(&lab))?)
}

impl Inner {
    /// Waits until pods accept connections, then says so.
    pub(super) fn await_ready(&self, pods: &[Arc<PodInner>]) -> Result<()> {
        for pod in pods {
            self.probe(pod.node, pod.ips.v4.into(), &pod.probes, READY_WITHIN)?;
            self.set_ready(pod, true);
        }
        self.publish()
    }

    fn set_ready(&self, pod: &PodInner, ready: bool) {
        if let Some(state) = lock(&self.state).pods.get_mut(&pod.key()) {
            state.ready = ready;
        }
    }

    fn look(&self, pod: &Arc<PodInner>) -> Result<()> {
        let ended = lock(&pod.process).as_mut().is_some_and(|process| process.ended().is_some());
        if !ended {
            return Ok(());
        }
        let since = *lock(&pod.died).get_or_insert_with(Instant::now);
        if since.elapsed() < PERIOD {
            self.set_ready(pod, false);
            return self.publish();
        }
        if pod.restart.is_some_and(|after| since.elapsed() > after) {
            pod.start_main(self)?;
            return self.await_ready(std::slice::from_ref(pod));
        }
        Ok(())
    }
}

fn watch(lab: &Weak<Inner>) {
    loop {
        let Some(lab) = lab.upgrade().filter(|lab| !lab.stopping()) else { return };
        for pod in lab.pods() {
            if let Err(error) = lab.look(&pod) {
                tracing::warn!("{}/{}: {error:#}", pod.namespace, pod.name);
            }
        }
        drop(lab);
        thread::sleep(PERIOD);
    }
}
