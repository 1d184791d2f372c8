//! Ports of the echo app: a name, what it speaks, a number; and what a Kubernetes port's name says of its protocol.

use std::fmt;
use std::str::FromStr;

/// What a port of the echo app speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/2 with prior knowledge; gRPC requests are answered too.
    Http,
    /// gRPC only.
    Grpc,
    /// A line in, the prefix and the line out.
    Tcp,
    /// As `Tcp`, but the server speaks first, as MySQL and SMTP do.
    Greet,
    /// The first bytes decide between `Http` and `Tcp`.
    Detect,
}

impl Protocol {
    /// What a container port speaks, from the Service port (or container port) that names it: `appProtocol` first, then
    /// `<protocol>[-<suffix>]` in the name (Istio's protocol selection). What nothing declares is `Detect`.
    pub fn from_kubernetes(port_name: Option<&str>, app_protocol: Option<&str>) -> Self {
        let declared = app_protocol.or_else(|| port_name.map(|name| name.split('-').next().unwrap_or(name)));
        match declared.map(str::to_ascii_lowercase).as_deref() {
            Some("http" | "http2" | "h2c" | "kubernetes.io/h2c" | "kubernetes.io/ws" | "ws") => Self::Http,
            // `grpc-web` splits to `grpc` as a name and comes whole as an appProtocol.
            Some("grpc" | "grpc-web") => Self::Grpc,
            Some("mysql") => Self::Greet,
            // The app has no TLS of its own: bytes are bytes.
            Some("tcp" | "tls" | "https" | "mongo" | "redis") => Self::Tcp,
            _ => Self::Detect,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Greet => "greet",
            Self::Detect => "detect",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Http, Self::Grpc, Self::Tcp, Self::Greet, Self::Detect]
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
            .ok_or_else(|| format!("`{text}` is none of http, grpc, tcp, greet, detect"))
    }
}

/// One port of the echo app; its text form is `NAME:PROTOCOL:PORT`, and `--port` takes just that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    /// 0 lets the kernel choose.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.name, self.protocol, self.number)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(':');
        let (Some(name), Some(protocol), Some(number), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("`{text}` is not NAME:PROTOCOL:PORT, for example web:http:8080"));
        };
        let number = number.parse().map_err(|_| format!("`{number}` is not a port number"))?;
        Ok(Self { name: name.to_owned(), protocol: protocol.parse()?, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_survives_its_text_form() {
        for text in ["web:http:8080", ":detect:0", "grpc-x:grpc:17070", "db:greet:3306", "a:tcp:1"] {
            assert_eq!(text.parse::<Port>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_port_says_what_is_wrong() {
        assert!("8080".parse::<Port>().unwrap_err().contains("NAME:PROTOCOL:PORT"));
        assert!("a:quic:1".parse::<Port>().unwrap_err().contains("quic"));
        assert!("a:http:70000".parse::<Port>().unwrap_err().contains("70000"));
    }

    #[test]
    fn the_app_protocol_wins_over_the_name_and_the_name_is_read_to_its_first_dash() {
        let of = Protocol::from_kubernetes;
        assert_eq!(of(Some("grpc"), None), Protocol::Grpc);
        assert_eq!(of(Some("tcp-other"), None), Protocol::Tcp);
        assert_eq!(of(Some("http2-admin"), None), Protocol::Http);
        assert_eq!(of(Some("tcp-x"), Some("grpc")), Protocol::Grpc);
        assert_eq!(of(Some("httpx"), None), Protocol::Detect);
        assert_eq!(of(None, None), Protocol::Detect);
    }
}
