use super::render::Clock;
use super::*;
use crate::error::Flag;
use crate::snapshot::access_log::Encoding;
use crate::snapshot::{ClusterKey, PortKey, ServiceName};
use http::{HeaderMap, HeaderValue, Request, request};
use proptest::prelude::*;
use rustix::fs::{Advice, OFlags, fadvise, fcntl_setfl, statfs};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::io::IoSliceMut;
use std::path::Path;

/// statfs(2)
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

fn settings(encoding: Encoding, source: &str, file: &Path) -> AccessLogSettings {
    let format = Arc::new(Format::parse(encoding, source).unwrap());
    AccessLogSettings { file: Some(file.to_str().unwrap().into()), format }
}

/// An entry like that of istio.io's example, and how it ended.
fn example(format: Format, parts: &request::Parts) -> (Entry, Ended<'static>) {
    let file: AccessLogSettings = AccessLogSettings { file: Some("/dev/null".into()), format: Arc::new(format) };
    let log = Arc::new(AccessLog::default());
    log.set(&file, None, false);
    let logger = Rc::new(Logger::new(log));
    let addr = |text: &str| text.parse().unwrap();
    let mut entry = logger.entry(addr("10.44.1.23:54652"), addr("10.0.45.184:80"), 7, Nanos::now()).unwrap();
    entry.known.started = 1_606_263_351_313_000_000;
    entry.head(parts);
    let key = ClusterKey { port: PortKey::new(ServiceName::new("foo", "httpbin"), 8000), subset: Some("v1".into()) };
    entry.cluster(&cluster("httpbin.foo.svc.cluster.local", &key));
    entry.server_name(Some(&"outbound_.8000_._.httpbin".into()));
    entry.asks(addr("10.44.1.99:80"));
    entry.answered(&HeaderMap::new());
    entry.connected(Connected { endpoint: addr("10.44.1.27:80"), local: Some(addr("10.44.1.23:37652")) });
    let how = How {
        code: Some(418),
        grpc_status: None,
        flags: Flags::NONE,
        details: "via_upstream".into(),
        attempts: 1,
        route: Some("default".into()),
    };
    let ended = Ended {
        how,
        duration: Duration::from_micros(4_700),
        answered: Some(Duration::from_millis(4)),
        upstream: Some(Duration::from_micros(3_900)),
        received: 12,
        sent: 135,
        tcp: None,
    };
    (entry, ended)
}

fn request() -> request::Parts {
    let request = Request::get("/status/418")
        .header("host", "httpbin:8000")
        .header("x-forwarded-for", "10.1.1.1")
        .header("user-agent", "curl/7.73.0-DEV")
        .header("x-request-id", "84961386-6d84-929d-98bd-c5aee93b5c88");
    request.body(()).unwrap().into_parts().0
}

/// As a worker notes it.
fn note(kinds: &mut Kinds, batch: &mut Batch, entry: &Entry, ended: &Ended<'_>) {
    let template = kinds.note(&entry.known, &ended.how, batch);
    batch.push(template, &entry.known, ended);
}

/// As the writer makes lines of them.
fn written(batch: &mut Batch) -> String {
    let batch = batch.take();
    let (mut clock, mut out) = (Clock::default(), Vec::new());
    for (template, line, texts) in batch.lines() {
        template.write(&batch.format, &mut clock, line, texts, &mut out);
    }
    String::from_utf8(out).expect("UTF-8")
}

/// As if there were no others.
fn alone(entry: &Entry, ended: &Ended<'_>) -> String {
    let mut batch = Batch::new(&entry.draft.active.format);
    note(&mut Kinds::new(), &mut batch, entry, ended);
    written(&mut batch)
}

fn rendered(encoding: Encoding, source: &str) -> String {
    let (entry, ended) = example(Format::parse(encoding, source).unwrap(), &request());
    alone(&entry, &ended)
}

#[test]
fn istios_text_line() {
    assert_eq!(
        rendered(Encoding::Text, ""),
        "[2020-11-25T00:15:51.313Z] \"GET /status/418 HTTP/1.1\" 418 - via_upstream - \"-\" 12 135 4 3 \"10.1.1.1\" \
         \"curl/7.73.0-DEV\" \"84961386-6d84-929d-98bd-c5aee93b5c88\" \"httpbin:8000\" \"10.44.1.27:80\" \
         outbound|8000|v1|httpbin.foo.svc.cluster.local 10.44.1.23:37652 10.0.45.184:80 10.44.1.23:54652 \
         outbound_.8000_._.httpbin default\n"
    );
}

#[test]
fn istios_json_keys() {
    assert_eq!(
        rendered(Encoding::Json, ""),
        "{\"start_time\":\"2020-11-25T00:15:51.313Z\",\"route_name\":\"default\",\"method\":\"GET\",\
         \"path\":\"/status/418\",\"protocol\":\"HTTP/1.1\",\"response_code\":418,\"response_flags\":\"-\",\
         \"response_code_details\":\"via_upstream\",\"connection_termination_details\":null,\"bytes_received\":12,\
         \"bytes_sent\":135,\"duration\":4,\"upstream_service_time\":\"3\",\"x_forwarded_for\":\"10.1.1.1\",\
         \"user_agent\":\"curl/7.73.0-DEV\",\"request_id\":\"84961386-6d84-929d-98bd-c5aee93b5c88\",\
         \"authority\":\"httpbin:8000\",\"upstream_host\":\"10.44.1.27:80\",\
         \"upstream_cluster\":\"outbound|8000|v1|httpbin.foo.svc.cluster.local\",\
         \"upstream_local_address\":\"10.44.1.23:37652\",\"downstream_local_address\":\"10.0.45.184:80\",\
         \"downstream_remote_address\":\"10.44.1.23:54652\",\
         \"requested_server_name\":\"outbound_.8000_._.httpbin\",\"upstream_transport_failure_reason\":null}\n"
    );
}

#[test]
fn formats_of_ones_own() {
    let text =
        "%START_TIME(%s %d/%m/%Y %T.%6f)% %REQ(X-ABSENT?:PATH):4% %RESP(:STATUS)% %UPSTREAM_REMOTE_PORT% %GRPC_STATUS%";
    assert_eq!(rendered(Encoding::Text, text), "1606263351 25/11/2020 00:15:51.313000 /sta 418 80 -\n");
    let json = r#"{"code": "%RESPONSE_CODE%", "text": "%RESPONSE_CODE%/%REQ(X-ABSENT)%", "ip": {"of": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}, "v": 1}"#;
    assert_eq!(
        rendered(Encoding::Json, json),
        "{\"code\":418,\"text\":\"418/-\",\"ip\":{\"of\":\"10.44.1.23\"},\"v\":1}\n"
    );
}

#[test]
fn failures_say_what_the_transport_said() {
    let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%";
    let (entry, mut ended) = example(Format::parse(Encoding::Text, format).unwrap(), &request());
    let answer = crate::error::Failure::Connect(crate::error::ConnectError::Refused).answer();
    (ended.how.code, ended.how.flags) = (Some(503), answer.flags | Flag::URX.into());
    ended.how.details = answer.details.into();
    assert_eq!(
        alone(&entry, &ended),
        format!("503 URX,UF {} delayed_connect_error:_Connection_refused\n", answer.details)
    );
}

proptest! {
    /// Whatever a client sends, one request is one line, and the JSON is JSON.
    #[test]
    fn one_request_is_one_line(
        value in proptest::collection::vec(any::<u8>().prop_filter("header bytes", |b| *b >= 32 && *b != 127), 0..200),
        path in "/[!-~]{0,60}",
    ) {
        let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
        let Ok(uri) = path.parse::<http::Uri>() else { return Ok(()) };
        let mut parts = request();
        parts.uri = uri;
        for name in ["user-agent", "host", "x-request-id"] {
            parts.headers.insert(name, value.clone());
        }
        for encoding in [Encoding::Text, Encoding::Json] {
            let (entry, ended) = example(Format::parse(encoding, "").unwrap(), &parts);
            let line = alone(&entry, &ended);
            prop_assert_eq!(line.chars().filter(|c| c.is_control()).collect::<String>(), "\n");
            prop_assert!(line.ends_with('\n'));
            if encoding == Encoding::Json {
                let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
                prop_assert_eq!(&read["response_code"], 418);
                if let Some(sent) = value.to_str().ok().filter(|sent| !sent.is_empty()) {
                    prop_assert_eq!(&read["user_agent"], sent);
                }
            } else {
                // Quotes of values are escaped: those left are the format's seven pairs.
                let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
                prop_assert_eq!(quotes, 14, "{}", line);
            }
        }
    }
}

/// One of those that differ from [`example`] in what the bits of `which` say.
fn variant(which: u16, format: &Arc<Format>) -> (Entry, Ended<'static>) {
    let is = |bit: u16| which & (1 << bit) != 0;
    let mut parts = request();
    let (mut entry, mut ended) = example(Format::clone(format), &parts);
    let addr = |text: &str| text.parse().unwrap();
    if is(0) {
        (ended.how.code, ended.how.grpc_status) = (Some(200), Some(14));
    }
    if is(1) {
        (ended.how.flags, ended.how.details) = (Flag::UF.into(), "upstream{remote|\"refused\"}".into());
    }
    if is(2) {
        parts.method = http::Method::POST;
        parts.version = http::Version::HTTP_2;
    }
    if is(3) {
        parts.headers.insert("host", HeaderValue::from_static("HTTPBIN:8000"));
        parts.headers.remove("user-agent");
    }
    if is(4) {
        parts.headers.insert("x-request-id", HeaderValue::from_static("\"mine\""));
        (ended.received, ended.duration) = (1 << 40, Duration::from_secs(2));
    }
    entry.head(&parts);
    if is(5) {
        entry.connected(Connected { endpoint: addr("[fd00::7]:80"), local: None });
    }
    if is(6) {
        entry.cluster(&"PassthroughCluster".into());
    }
    if is(7) {
        (ended.how.route, ended.how.attempts) = (None, 3);
        entry.server_name(None);
    }
    if is(8) {
        (entry.known.client, entry.known.connection) = (addr("10.44.1.24:1"), 8);
        entry.known.started += 600_000;
    }
    if is(9) {
        entry.known.kind.local = addr("10.0.45.184:81");
    }
    if is(10) {
        entry.known.kind.asked = None;
    }
    (entry, ended)
}

/// All that there is.
const EVERYTHING: &str = "%START_TIME% %START_TIME(%s.%9f)% %REQ(:METHOD)% %REQ(X-NONE?:PATH):5% %REQ(:AUTHORITY)% %REQ(:SCHEME)% \
    %REQ(USER-AGENT)% %REQ(X-REQUEST-ID?:METHOD)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS:9% \
    %UPSTREAM_TRANSPORT_FAILURE_REASON% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_REMOTE_PORT% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME% %GRPC_STATUS% \
    %GRPC_STATUS_NUMBER% %CONNECTION_ID%";

proptest! {
    /// What a worker remembers of former lines is never seen in a line.
    #[test]
    fn a_line_is_the_same_after_any_others(which in proptest::collection::vec(0_u16..1 << 11, 1..40)) {
        for (encoding, source) in [(Encoding::Json, ""), (Encoding::Text, ""), (Encoding::Text, EVERYTHING)] {
            let format = Arc::new(Format::parse(encoding, source).unwrap());
            let (mut kinds, mut batch, mut lines) = (Kinds::new(), Batch::new(&format), String::new());
            let mut wanted = String::new();
            // Few of them, so that they come back, in the same batch and in the next one.
            for (at, which) in which.iter().chain(&which).enumerate() {
                let (entry, ended) = variant(*which, &format);
                note(&mut kinds, &mut batch, &entry, &ended);
                wanted += &alone(&entry, &ended);
                if at % 7 == 6 {
                    lines += &written(&mut batch);
                }
            }
            lines += &written(&mut batch);
            prop_assert_eq!(lines, wanted);
        }
    }
}

/// Templates are what a batch weighs most where each line has one of its own: they are counted.
#[test]
fn a_batch_of_kinds_that_never_come_back_is_full_early() {
    let (entry, mut ended) = example(Format::parse(Encoding::Json, "").unwrap(), &request());
    let (mut kinds, mut batch) = (Kinds::new(), Batch::new(&entry.draft.active.format));
    for code in 0..768 {
        if batch.is_full() {
            break;
        }
        ended.how.code = Some(code);
        note(&mut kinds, &mut batch, &entry, &ended);
    }
    let batch = batch.take();
    assert!(batch.len() < 600 && (512 << 10..1 << 20).contains(&batch.size()), "{} {}", batch.len(), batch.size());
    let (mut kinds, mut batch) = (Kinds::new(), Batch::new(&entry.draft.active.format));
    while !batch.is_full() {
        note(&mut kinds, &mut batch, &entry, &ended);
    }
    let batch = batch.take();
    assert!(batch.len() == 768 && batch.size() < 256 << 10, "{} {}", batch.len(), batch.size());
}

/// Istio's lines, to a file.
fn logging(encoding: Encoding, file: &Path) -> (Arc<AccessLog>, Rc<Logger>) {
    let log = Arc::new(AccessLog::default());
    let logger = Rc::new(Logger::new(Arc::clone(&log)));
    log.set(&settings(encoding, "", file), None, false);
    (log, logger)
}

fn begun(logger: &Rc<Logger>) -> (Entry, Ended<'static>) {
    let addr = "127.0.0.1:1".parse().unwrap();
    let mut entry = logger.entry(addr, addr, 1, Nanos::now()).expect("the log is on");
    entry.head(&request());
    let how =
        How { code: Some(200), grpc_status: None, flags: Flags::NONE, details: "".into(), attempts: 1, route: None };
    let (answered, upstream) = (None, None);
    let ended = Ended { how, duration: Duration::ZERO, answered, upstream, received: 0, sent: 0, tcp: None };
    (entry, ended)
}

fn write(logger: &Rc<Logger>, count: usize) {
    for _ in 0..count {
        let (entry, ended) = begun(logger);
        entry.end(&ended);
    }
    logger.flush();
}

fn lines(file: &Path) -> usize {
    std::fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

#[test]
fn a_file_that_was_moved_away_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (file, moved) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log = Arc::new(AccessLog::default());
    let logger = Rc::new(Logger::new(Arc::clone(&log)));
    assert!(logger.entry(([0; 4], 0).into(), ([0; 4], 0).into(), 0, Nanos(0)).is_none(), "off by default");
    log.set(&settings(Encoding::Text, "%PROTOCOL%", &file), None, false);
    write(&logger, 3);
    assert!(log.flushed(Duration::from_secs(5)));
    assert_eq!(lines(&file), 3);
    // As logrotate does it: rename; the next lines find a new file, SIGUSR1 or not.
    std::fs::rename(&file, &moved).unwrap();
    write(&logger, 2);
    assert!(log.flushed(Duration::from_secs(5)));
    assert_eq!((lines(&moved), lines(&file)), (3, 2));
    std::fs::rename(&file, &moved).unwrap();
    log.reopen();
    assert!(log.flushed(Duration::from_secs(5)));
    assert!(file.exists(), "SIGUSR1 does not wait for lines");
    // Another file, then none.
    let other = dir.path().join("other.log");
    let (entry, ended) = begun(&logger);
    log.set(&settings(Encoding::Text, "%PROTOCOL%", &other), None, false);
    write(&logger, 1);
    entry.end(&ended);
    logger.flush();
    assert!(log.flushed(Duration::from_secs(5)));
    assert_eq!(lines(&other), 1);
    log.set(&AccessLogSettings::default(), None, false);
    assert!(!logger.is_on());
    log.set(&AccessLogSettings::default(), Some("/dev/null"), false);
    assert!(logger.is_on(), "the command line needs no MeshConfig");
    assert_eq!(log.dropped(), 0);
}

/// More than a worker gathers, and less than may be under way.
#[test]
fn full_batches_arrive_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let (log, logger) = logging(Encoding::Json, &file);
    for _ in 0..2 {
        write(&logger, 3_000);
        assert!(log.flushed(Duration::from_secs(30)));
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert_eq!((text.lines().filter(whole).count(), log.dropped()), (6_000, 0));
}

/// Of pages that are not in memory the kernel says so, rather than read them (preadv2(2), `RWF_NOWAIT`).
#[test]
fn full_batches_pass_the_page_cache_by() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (log, logger) = logging(Encoding::Json, &path);
    let look = |block: u64| {
        let (file, mut byte) = (std::fs::File::open(&path).unwrap(), [0]);
        // Looking at one must not bring the next.
        fadvise(&file, 0, None, Advice::Random).unwrap();
        preadv2(&file, &mut [IoSliceMut::new(&mut byte)], block * 4096, ReadWriteFlags::NOWAIT)
    };
    write(&logger, 1);
    assert!(log.flushed(Duration::from_secs(30)));
    // One in memory has nothing else; others cannot write directly, or do not say what is in memory.
    let direct = fcntl_setfl(std::fs::File::open(&path).unwrap(), OFlags::DIRECT).is_ok();
    let able = direct && look(0) == Ok(1) && statfs(&path).unwrap().f_type != TMPFS;
    write(&logger, 1_000);
    assert!(log.flushed(Duration::from_secs(30)));
    assert!(path.metadata().unwrap().len() > 100 * 4096);
    let absent = (2..100).filter(|block| look(*block) == Err(Errno::AGAIN)).count();
    // Where one batch ends and the next begins, a block goes through the cache.
    assert!(if able { absent > 90 } else { absent == 0 }, "{absent} of 98");
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (log, logger) = logging(Encoding::Text, &dir.path().join("missing/access.log"));
    write(&logger, 4);
    assert!(log.flushed(Duration::from_secs(5)));
    assert_eq!(log.dropped(), 4);
    // The folder comes: so do the lines.
    std::fs::create_dir(dir.path().join("missing")).unwrap();
    write(&logger, 2);
    assert!(log.flushed(Duration::from_secs(5)));
    assert_eq!((log.dropped(), lines(&dir.path().join("missing/access.log"))), (4, 2));
}
