//! The cells of the bench: one kind of work each, and the number it is judged by.

use super::load::Report;
use clap::ValueEnum;
use serde::Serialize;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cell {
    /// 128 B unary calls, 50 streams over 4 connections; calls/s
    #[value(name = "unary-50x4")]
    #[serde(rename = "unary-50x4")]
    Unary50x4,
    /// The same over one connection; also the share of each endpoint
    #[value(name = "unary-50x1")]
    #[serde(rename = "unary-50x1")]
    Unary50x1,
    /// 128 B unary calls, one at a time over one connection; latency
    #[value(name = "unary-1x1")]
    #[serde(rename = "unary-1x1")]
    Unary1x1,
    /// 128 B unary calls at 30 % of what the slowest proxy managed; latency
    #[value(name = "rate-30")]
    #[serde(rename = "rate-30")]
    Rate30,
    /// 1 MiB there and back, 4 streams over 4 connections; calls/s
    #[value(name = "large-1m")]
    #[serde(rename = "large-1m")]
    Large1m,
    /// Server streaming of 128 B messages, 8 streams over 4 connections; messages/s
    #[value(name = "stream-128")]
    #[serde(rename = "stream-128")]
    Stream128,
    /// Resident memory per connection with 1,000 idle ones
    #[value(name = "idle-1000")]
    #[serde(rename = "idle-1000")]
    Idle1000,
    /// Opaque TCP, 128 B there and back on 4 connections; exchanges/s
    TcpRr,
    /// Opaque TCP, 64 KiB there and back on 4 connections; exchanges/s
    TcpBulk,
}

/// The number a cell is judged by.
#[derive(Clone, Copy, Serialize, PartialEq, Eq, Debug)]
pub(super) struct Metric {
    pub(super) unit: &'static str,
    pub(super) higher_is_better: bool,
}

impl Cell {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    pub(super) fn is_tcp(self) -> bool {
        matches!(self, Self::TcpRr | Self::TcpBulk)
    }

    pub(super) fn connections(self) -> u64 {
        match self {
            Self::Unary50x1 | Self::Unary1x1 => 1,
            Self::Idle1000 => 1_000,
            _ => 4,
        }
    }

    pub(super) fn metric(self) -> Metric {
        let (unit, higher_is_better) = match self {
            Self::Unary50x4 | Self::Unary50x1 | Self::Large1m => ("calls/s", true),
            Self::Unary1x1 => ("p50 us", false),
            Self::Rate30 => ("p99 us", false),
            Self::Stream128 => ("messages/s", true),
            Self::Idle1000 => ("KiB/connection", false),
            Self::TcpRr | Self::TcpBulk => ("exchanges/s", true),
        };
        Metric { unit, higher_is_better }
    }

    /// Arguments of `mesh-bench load` or `mesh-bench tcp`, target and times aside.
    pub(super) fn arguments(self, rate: f64) -> Vec<String> {
        let text = match self {
            Self::Unary50x4 => "load --connections 4 --streams 50".to_owned(),
            Self::Unary50x1 => "load --connections 1 --streams 50".to_owned(),
            Self::Unary1x1 => "load --connections 1 --streams 1".to_owned(),
            Self::Rate30 => format!("load --connections 4 --rate {rate:.0}"),
            Self::Large1m => "load --connections 4 --streams 4 --request 1048576 --reply 1048576".to_owned(),
            Self::Stream128 => "load --connections 4 --streams 8 --replies 10000".to_owned(),
            Self::Idle1000 => "load --connections 1000 --idle".to_owned(),
            Self::TcpRr => "tcp --size 128".to_owned(),
            Self::TcpBulk => "tcp --size 65536".to_owned(),
        };
        text.split(' ').map(str::to_owned).collect()
    }

    /// The cell's number. `growth`: bytes of memory that the connections added.
    pub(super) fn value(self, report: &Report, growth: i64) -> f64 {
        match self {
            Self::Unary1x1 => report.p50,
            Self::Rate30 => report.p99,
            Self::Stream128 => report.messages as f64 / report.seconds,
            Self::Idle1000 => growth as f64 / 1024.0 / self.connections() as f64,
            _ => report.calls as f64 / report.seconds,
        }
    }

    /// What CPU time is divided by: messages where a call is a stream of them.
    pub(super) fn operations(self, report: &Report) -> u64 {
        if self == Self::Stream128 { report.messages } else { report.calls }
    }

    /// Lines that an access log has of a sample: one of each request, and of each connection of bytes.
    pub(super) fn lines(self, report: &Report) -> u64 {
        match self {
            Self::Unary50x4 | Self::Unary50x1 | Self::Unary1x1 | Self::Rate30 | Self::Large1m => report.calls,
            Self::Stream128 | Self::Idle1000 | Self::TcpRr | Self::TcpBulk => 0,
        }
    }
}
