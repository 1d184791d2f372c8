//! What a certificate says, in words for people: nothing is decided by it, rustls alone judges chains.

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519,
};
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The public part of one certificate (RFC 5280 §4.1). Of a key only its kind is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `O=shop, CN=shop.example`; empty where only `names` tell whose it is.
    pub subject: String,
    /// Subject alternative names: `DNS:*.shop.example`, `URI:spiffe://cluster.local/ns/shop/sa/web`, `IP:10.0.0.1`.
    pub names: Vec<String>,
    pub issuer: String,
    /// Bytes in hexadecimal, a colon between two.
    pub serial: String,
    /// RFC 3339, to the second.
    pub not_before: String,
    pub not_after: String,
    /// Full days until `not_after`; below 0: it has passed.
    pub days_left: i64,
    pub standing: Standing,
    /// `RSA 2048`, `ECDSA P-256`, `Ed25519`, else the algorithm's OID.
    pub key: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
}

/// A certificate at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Valid,
    /// It should have been renewed by now.
    Expiring,
    Expired,
    NotYetValid,
}

/// Who renews does so with a third (cert-manager, ACME) or half (Istio) of the lifetime left: with a fifth left nobody did.
const RENEWED_BY: i64 = 5;
/// Of lifetimes of years a fifth is too early to worry.
const SOON: i64 = 30 * DAY;
const DAY: i64 = 86_400;
/// 9999-12-31T23:59:59Z, "never" in RFC 5280 §4.1.2.5.
const NEVER: i64 = 253_402_300_799;

impl Facts {
    /// `None`: not understood, although rustls may.
    pub(super) fn of(der: &CertificateDer<'_>, now: SystemTime) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        let valid = certificate.validity();
        let (from, to) = (valid.not_before.timestamp(), valid.not_after.timestamp());
        let alternatives = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        });
        Some(Self {
            subject: printable(&certificate.subject().to_string()),
            names: alternatives.flatten().map(name).collect(),
            issuer: printable(&certificate.issuer().to_string()),
            serial: certificate.raw_serial_as_string(),
            not_before: time(&valid.not_before),
            not_after: time(&valid.not_after),
            days_left: (to - now).div_euclid(DAY),
            standing: standing(from, to, now),
            key: key(certificate.public_key()),
            fingerprint: Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

fn standing(from: i64, to: i64, now: i64) -> Standing {
    match now {
        now if now < from => Standing::NotYetValid,
        now if now > to => Standing::Expired,
        now if to - now < ((to - from) / RENEWED_BY).min(SOON) => Standing::Expiring,
        _ => Standing::Valid,
    }
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => format!("DNS:{}", printable(name)),
        GeneralName::URI(uri) => format!("URI:{}", printable(uri)),
        GeneralName::RFC822Name(mail) => format!("email:{}", printable(mail)),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            match v4.or_else(|| <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok()) {
                Some(ip) => format!("IP:{ip}"),
                None => "IP:malformed".into(),
            }
        }
        other => printable(&other.to_string()),
    }
}

fn key(key: &SubjectPublicKeyInfo<'_>) -> String {
    let algorithm = &key.algorithm.algorithm;
    if *algorithm == OID_SIG_ED25519 {
        return "Ed25519".into();
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        let known = [(OID_EC_P256, "P-256"), (OID_NIST_EC_P384, "P-384"), (OID_NIST_EC_P521, "P-521")];
        let named = curve.as_ref().and_then(|curve| known.iter().find(|(oid, _)| oid == curve));
        return format!("ECDSA {}", named.map_or("on another curve", |(_, name)| *name));
    }
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("RSA {}", rsa.key_size()),
        _ => algorithm.to_id_string(),
    }
}

fn time(time: &ASN1Time) -> String {
    let seconds = u64::try_from(time.timestamp().clamp(0, NEVER)).unwrap_or(0);
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// Names are whoever's who made the certificate: no control character of theirs reaches a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType};

    const NOW: u64 = 1_800_000_000;

    fn made(from_days: i64, to_days: i64, change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> Facts {
        let mut params = CertificateParams::new(["shop.example".to_owned()]).unwrap();
        let day = |days: i64| (UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(days * DAY).unwrap())).into();
        (params.not_before, params.not_after) = (day(from_days), day(to_days));
        change(&mut params);
        let certificate = params.self_signed(key).unwrap();
        Facts::of(certificate.der(), UNIX_EPOCH + Duration::from_secs(NOW)).unwrap()
    }

    #[test]
    fn a_certificate_is_told_in_words() {
        let key = KeyPair::generate().unwrap();
        let facts = made(
            -1,
            89,
            |params| {
                params.distinguished_name.push(DnType::CommonName, "a\u{1b}[31mb");
                params.serial_number = Some([0x0a, 0xff].to_vec().into());
                let spiffe = "spiffe://cluster.local/ns/shop/sa/web".try_into().unwrap();
                let ips = ["10.0.0.1", "fd00::1"].map(|ip| SanType::IpAddress(ip.parse().unwrap()));
                params.subject_alt_names.extend(ips.into_iter().chain([SanType::URI(spiffe)]));
            },
            &key,
        );
        assert!(facts.subject.ends_with("CN=a\u{fffd}[31mb") && facts.issuer == facts.subject, "{}", facts.subject);
        let names = ["DNS:shop.example", "IP:10.0.0.1", "IP:fd00::1", "URI:spiffe://cluster.local/ns/shop/sa/web"];
        assert_eq!(facts.names, names);
        assert_eq!((&*facts.serial, &*facts.key, facts.fingerprint.len()), ("0a:ff", "ECDSA P-256", 64));
        assert_eq!((&*facts.not_before, facts.days_left), ("2027-01-14T08:00:00Z", 89));
        for (algorithm, name) in [(&PKCS_ECDSA_P384_SHA384, "ECDSA P-384"), (&PKCS_ED25519, "Ed25519")] {
            assert_eq!(made(-1, 1, |_| (), &KeyPair::generate_for(algorithm).unwrap()).key, name);
        }
    }

    #[test]
    fn what_nobody_renewed_in_time_is_expiring() {
        use Standing::{Expired, Expiring, NotYetValid, Valid};
        for (from, to, want) in [
            (-1, 89, Valid),
            (-73, 17, Expiring),
            (-71, 19, Valid),
            (-3000, 31, Valid),
            (-3000, 29, Expiring),
            (1, 2, NotYetValid),
            (-2, -1, Expired),
        ] {
            let facts = made(from, to, |_| (), &KeyPair::generate().unwrap());
            assert_eq!((facts.standing, facts.days_left), (want, to), "{from} {to}");
        }
        // One of Istio's workload certificates: a day long.
        assert_eq!([3, 5].map(|hours| standing(0, DAY, DAY - hours * 3600)), [Expiring, Valid]);
    }

    #[test]
    fn no_bytes_and_no_date_make_it_panic() {
        assert_eq!(Facts::of(&CertificateDer::from(&b"\x30\x03junk"[..]), UNIX_EPOCH), None);
        let key = KeyPair::generate().unwrap();
        let old = made(
            0,
            0,
            |params| {
                params.not_before = rcgen::date_time_ymd(1950, 1, 1);
                params.not_after = rcgen::date_time_ymd(9999, 12, 31);
            },
            &key,
        );
        assert_eq!(
            (&*old.not_before, &old.not_after[..4], old.standing),
            ("1970-01-01T00:00:00Z", "9999", Standing::Valid)
        );
    }
}
