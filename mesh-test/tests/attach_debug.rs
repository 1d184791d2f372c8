//! The programs' debug lines: there when asked for, absent otherwise.

mod support_attach;

use mesh_agent::snapshot::Protocol;
use mesh_common::Reason;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use support_attach::{Node, eventually};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn contain(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock().unwrap()).contains(text)
    }
}

#[test]
fn a_line_per_connect_on_demand() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(move || writer.clone()).init();
    let refuse = |debug: bool, vip: &str| {
        let mut node = Node::start(|config| config.debug = debug);
        let pod = node.pod("client");
        node.service("db", vip, Protocol::Tcp, &[]);
        pod.connect(vip).unwrap_err();
        assert_eq!(node.count(Reason::NoEndpoint), 1);
        node
    };
    drop(refuse(false, "10.96.0.1:5432"));
    let _node = refuse(true, "10.96.0.2:5432");
    let line = format!("connect to 10.96.0.2:5432: reason {}", Reason::NoEndpoint.index());
    eventually("the line arrives", || lines.contain(&line));
    assert!(!lines.contain("connect to 10.96.0.1:5432"));
}
