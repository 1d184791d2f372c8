use super::*;
use crate::config::resource::Object;

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{name: http, port: {port}}}]\n"
    )
}

fn names(changes: &Changes) -> (Vec<String>, Vec<String>) {
    let upserts = changes.upserts.iter().map(|r| r.key.name.to_string()).collect();
    (upserts, changes.deletes.iter().map(|k| k.name.to_string()).collect())
}

fn codes(scan: &Scan) -> Vec<&'static str> {
    scan.diagnostics.iter().map(|d| d.code.id()).collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> (Self, FileSource) {
        let dir = tempfile::tempdir().unwrap();
        let source = FileSource::new(vec![dir.path().to_owned()]);
        (Self(dir), source)
    }
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }
    /// As editors do: write beside, then rename over.
    fn replace(&self, name: &str, text: &str) {
        self.write(".tmp", text);
        std::fs::rename(self.0.path().join(".tmp"), self.0.path().join(name)).unwrap();
    }
}

#[test]
fn changes_are_what_changed() {
    let (folder, mut source) = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", service("a", 1), service("b", 1)));
    folder.write("notes.txt", "not ours");
    assert_eq!(names(&source.scan().changes), (vec!["a".into(), "b".into()], vec![]));
    assert!(source.scan().changes.is_empty());
    // One object changes, one only moves down.
    folder.replace("a.yaml", &format!("# note\n{}---\n{}", service("a", 1), service("b", 2)));
    let scan = source.scan();
    assert_eq!(names(&scan.changes), (vec!["b".into()], vec![]));
    assert_eq!(scan.changes.moved.len(), 1);
    assert_eq!(scan.changes.moved[0].1.line, 2);
    folder.replace("a.yaml", &service("b", 2));
    assert_eq!(names(&source.scan().changes).1, ["a"]);
    std::fs::remove_file(folder.0.path().join("a.yaml")).unwrap();
    assert_eq!(names(&source.scan().changes).1, ["b"]);
}

#[test]
fn a_broken_file_keeps_its_last_good_objects() {
    let (folder, mut source) = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", service("a", 1), service("b", 1)));
    source.scan();
    // A document that cannot be read at all might be either: both stay.
    folder.write("a.yaml", &format!("{}---\nkind: [", service("a", 9)));
    let scan = source.scan();
    assert_eq!(names(&scan.changes), (vec!["a".into()], vec![]));
    assert_eq!(codes(&scan), ["UM0002", "UM0010"]);
    // A document that names its object keeps that one only.
    let broken = service("a", 1).replace("port: 1", "port: x");
    folder.write("a.yaml", &broken);
    let scan = source.scan();
    assert_eq!(names(&scan.changes), (vec![], vec!["b".into()]));
    assert_eq!(codes(&scan), ["UM0006", "UM0010"]);
    folder.write("a.yaml", &service("a", 3));
    let scan = source.scan();
    assert_eq!(names(&scan.changes).0, ["a"]);
    assert_eq!(codes(&scan), [""; 0]);
}

#[test]
fn an_emptied_file_is_believed_only_after_a_moment() {
    let (folder, mut source) = Folder::new();
    folder.write("a.yaml", &service("a", 1));
    source.scan();
    folder.write("a.yaml", "");
    let scan = source.scan();
    assert!(scan.changes.is_empty());
    std::thread::sleep(scan.again.unwrap());
    assert_eq!(names(&source.scan().changes).1, ["a"]);
}

#[test]
fn the_last_file_counts_and_both_are_named() {
    let (folder, mut source) = Folder::new();
    folder.write("b.yaml", &service("a", 2));
    source.scan();
    folder.write("a.yaml", &service("a", 1));
    let scan = source.scan();
    assert!(scan.changes.is_empty());
    assert_eq!(codes(&scan), ["UM0009"]);
    let text = scan.diagnostics[0].to_string();
    assert!(text.contains("a.yaml:1") && text.contains("b.yaml:1"), "{text}");
    std::fs::remove_file(folder.0.path().join("b.yaml")).unwrap();
    let scan = source.scan();
    let Object::Service(service) = &scan.changes.upserts[0].object else { panic!("not a Service") };
    assert_eq!(service.spec.ports[0].port, 1);
    assert_eq!(codes(&scan), [""; 0]);
}

#[test]
fn a_folder_that_vanishes_keeps_its_objects() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("conf");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("a.yaml"), service("a", 1)).unwrap();
    let mut source = FileSource::new(vec![inner.clone()]);
    source.scan();
    std::fs::rename(&inner, outer.path().join("away")).unwrap();
    let scan = source.scan();
    assert!(scan.changes.is_empty());
    assert_eq!(codes(&scan), ["UM0001"]);
    std::fs::rename(outer.path().join("away"), &inner).unwrap();
    let scan = source.scan();
    assert!(scan.changes.is_empty());
    assert_eq!(codes(&scan), [""; 0]);
}

#[test]
fn a_watch_finds_writes_renames_and_new_folders_at_once() {
    let (folder, source) = Folder::new();
    folder.write("a.yaml", &service("a", 1));
    let (tx, rx) = std::sync::mpsc::channel();
    let watch = source.watch(move |scan| tx.send(scan).unwrap()).unwrap();
    let next = || names(&rx.recv_timeout(Duration::from_secs(1)).expect("a change in force within 1 s").changes);
    assert_eq!(next().0, ["a"]);
    folder.write("a.yaml", &service("a", 2));
    assert_eq!(next().0, ["a"]);
    folder.replace("b.yaml", &service("b", 2));
    assert_eq!(next().0, ["b"]);
    std::fs::create_dir(folder.0.path().join("sub")).unwrap();
    folder.write("sub/c.yaml", &service("c", 2));
    assert_eq!(next().0, ["c"]);
    std::fs::remove_file(folder.0.path().join("b.yaml")).unwrap();
    assert_eq!(next().1, ["b"]);
    drop(watch);
    assert!(rx.recv_timeout(Duration::from_secs(1)).is_err());
}
