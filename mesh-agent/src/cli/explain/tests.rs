use super::*;
use crate::cli::{Ask, Cli, Command};
use clap::Parser;

fn args(args: &[&str]) -> ExplainArgs {
    let cli = Cli::try_parse_from(["mesh-agent", "explain"].iter().chain(args)).expect("flags parse");
    let Command::Ask(Ask::Explain(args)) = cli.command else { panic!("explain was asked for") };
    *args
}

#[test]
fn a_request_is_written_as_for_curl() {
    let args = args(&["-X", "POST", "-H", "end-user: jason", "-H", "x:", "--from", "shop/web", "reviews:9080/a"]);
    assert_eq!((args.method.as_deref(), &*args.from, &*args.url), (Some("POST"), "shop/web", "reviews:9080/a"));
    assert_eq!(args.headers, [("end-user".into(), "jason".into()), ("x".into(), String::new())]);
}

#[test]
fn wrong_usage_is_refused() {
    for args in [&["a", "-H", "nothing"][..], &["a", "--gateway", "x/y", "--from", "z"], &["a", "--port", "99999"], &[]]
    {
        assert!(Cli::try_parse_from(["mesh-agent", "explain"].iter().chain(args)).is_err(), "{args:?}");
    }
}
