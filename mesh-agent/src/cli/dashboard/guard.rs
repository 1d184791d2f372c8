//! Who may read the console: a browser that was given the printed address, and no page of somebody else in it.
//!
//! Other users of the machine reach the port too, and so do other sites' pages in the user's own browser. The first are
//! kept out by the secret; the second by the Host header (DNS rebinding gives their own name to 127.0.0.1), by
//! `Sec-Fetch-Site` and `Origin`, and by the cookie's `SameSite=Strict`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use subtle::ConstantTimeEq;

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;
/// The names under which a browser on this machine (or at the other end of `ssh -L`) knows us.
const HOSTS: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

pub(super) struct Guard {
    secret: String,
    /// For the address that is handed to xdg-open: every user of the machine sees its command line, so it is good once.
    ticket: Mutex<Option<String>>,
    /// Cookies are not kept apart by port (RFC 6265 §8.5); the name keeps several consoles apart.
    cookie: String,
}

/// Who was let in, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Known,
    /// Came with the address: gets this cookie, so that the page's own requests need no secret in their paths.
    First(HeaderValue),
}

/// Why somebody was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stranger {
    /// A name that is not this machine's.
    Host,
    /// A page of another origin asks.
    Site,
    Secret,
}

impl Guard {
    /// # Errors
    /// The kernel gives no random bytes.
    pub(super) fn new(port: u16) -> io::Result<Self> {
        let ticket = Mutex::new(Some(secret()?));
        Ok(Self { secret: secret()?, ticket, cookie: format!("undermesh-console-{port}") })
    }

    /// The address for the terminal; good as long as the process runs.
    pub(super) fn url(&self, address: SocketAddr) -> String {
        format!("http://{address}/?token={}", self.secret)
    }

    /// The address for a command line; good for one load. The same one as `url` once it was used.
    pub(super) fn url_once(&self, address: SocketAddr) -> String {
        let ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        format!("http://{address}/?token={}", ticket.as_ref().unwrap_or(&self.secret))
    }

    pub(super) fn check(&self, head: &Parts) -> Result<Pass, Stranger> {
        let host = header(&head.headers, HOST.as_str()).filter(|host| is_ours(host)).ok_or(Stranger::Host)?;
        let site = header(&head.headers, "sec-fetch-site").unwrap_or("same-origin");
        let origin = header(&head.headers, ORIGIN.as_str());
        let foreign = |origin: &str| origin.strip_prefix("http://") != Some(host);
        // Anybody may link to the page; the token decides then.
        let linked = head.uri.path() == "/" || matches!(site, "same-origin" | "none");
        if !linked || origin.is_some_and(foreign) {
            return Err(Stranger::Site);
        }
        if self.has_cookie(&head.headers) {
            return Ok(Pass::Known);
        }
        let token = head.uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("token="));
        match token {
            Some(token) if head.uri.path() == "/" && self.takes(token) => {
                let cookie = format!("{}={}; HttpOnly; SameSite=Strict; Path=/", self.cookie, self.secret);
                HeaderValue::try_from(cookie).map(Pass::First).map_err(|_| Stranger::Secret)
            }
            _ => Err(Stranger::Secret),
        }
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let fields = headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
        let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == self.cookie && same(value, &self.secret))
    }

    fn takes(&self, token: &str) -> bool {
        let mut ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        let once = ticket.as_ref().is_some_and(|ticket| same(token, ticket));
        if once {
            *ticket = None;
        }
        once || same(token, &self.secret)
    }
}

/// In a time that tells nothing of where they differ.
fn same(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}

fn is_ours(host: &str) -> bool {
    host.parse::<Authority>().is_ok_and(|host| HOSTS.contains(&host.host().to_ascii_lowercase().as_str()))
}

/// The one value of a field; none where there are several.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn secret() -> io::Result<String> {
    let mut bytes = [0; SECRET_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(path: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(path);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("request").into_parts().0
    }

    fn guard() -> (Guard, String) {
        let guard = Guard::new(7000).expect("guard");
        let path = format!("/?token={}", guard.secret);
        (guard, path)
    }

    #[test]
    fn the_address_gives_a_cookie_and_the_cookie_lets_in() {
        let (guard, path) = guard();
        let host = ("host", "127.0.0.1:7000");
        let Ok(Pass::First(cookie)) = guard.check(&head(&path, &[host])) else { panic!("the token is good") };
        let cookie = cookie.to_str().expect("text");
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
        let pair = cookie.split(';').next().expect("pair");
        let both = format!("other=1; {pair}");
        assert_eq!(guard.check(&head("/api/agents", &[host, ("cookie", &both)])), Ok(Pass::Known));
        assert_eq!(guard.check(&head("/", &[host, ("cookie", pair)])), Ok(Pass::Known));
        assert!(matches!(guard.check(&head(&path, &[("host", "localhost:15080")])), Ok(Pass::First(_))), "ssh -L");
    }

    #[test]
    fn a_wrong_or_missing_secret_is_refused() {
        let (guard, path) = guard();
        let host = ("host", "127.0.0.1:7000");
        let other = Guard::new(7000).expect("guard");
        let stolen = format!("undermesh-console-7000={}", other.secret);
        for (path, fields) in [
            ("/", vec![host]),
            ("/?token=", vec![host]),
            (&path[..path.len() - 1], vec![host]),
            ("/api/agents", vec![host, ("cookie", "undermesh-console-7000=")]),
            ("/api/agents", vec![host, ("cookie", &stolen)]),
        ] {
            assert_eq!(guard.check(&head(path, &fields)), Err(Stranger::Secret), "{path}");
        }
        let elsewhere = path.replacen('/', "/api/agents", 1);
        assert_eq!(guard.check(&head(&elsewhere, &[host])), Err(Stranger::Secret), "only the page takes a token");
    }

    #[test]
    fn other_names_and_other_sites_are_refused_whatever_they_know() {
        let (guard, path) = guard();
        for host in ["evil.example:7000", "127.0.0.1.evil.example", "localhost.", "127.0.0.2:7000", "", "a b"] {
            assert_eq!(guard.check(&head(&path, &[("host", host)])), Err(Stranger::Host), "{host:?}");
        }
        assert_eq!(guard.check(&head(&path, &[])), Err(Stranger::Host));
        let twice = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert_eq!(guard.check(&head(&path, &twice)), Err(Stranger::Host));
        let cookie = format!("undermesh-console-7000={}", guard.secret);
        for more in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:8000"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            let fields = [("host", "127.0.0.1:7000"), ("cookie", &cookie), more];
            assert_eq!(guard.check(&head("/api/agents", &fields)), Err(Stranger::Site), "{more:?}");
        }
        let own = [("host", "127.0.0.1:7000"), ("cookie", &*cookie), ("origin", "http://127.0.0.1:7000")];
        assert_eq!(guard.check(&head("/api/agents", &own)), Ok(Pass::Known));
    }

    #[test]
    fn what_a_command_line_showed_is_good_once() {
        let (guard, _) = guard();
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        let (url, once) = (guard.url(address), guard.url_once(address));
        assert_ne!(url, once);
        let path = once.strip_prefix("http://127.0.0.1:7000").expect("address");
        let fields = [("host", "127.0.0.1:7000")];
        assert!(matches!(guard.check(&head(path, &fields)), Ok(Pass::First(_))));
        assert_eq!(guard.check(&head(path, &fields)), Err(Stranger::Secret));
    }
}
