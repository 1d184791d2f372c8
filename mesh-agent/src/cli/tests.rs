//! What the flags mean; what `--help` promises.

use super::{Cli, Command};
use crate::app::{ConfigFrom, FailurePolicy, Options, SkMsg, Stop};
use clap::{CommandFactory, Parser};
use std::path::Path;
use std::time::Duration;

fn options(args: &[&str]) -> Options {
    let cli = Cli::try_parse_from(["mesh-agent", "run"].iter().chain(args)).expect("flags parse");
    let Command::Run(run) = cli.command else { panic!("run was asked for") };
    run.options(cli.place.run_dir()).expect("options")
}

fn refusal(args: &[&str]) -> String {
    Cli::try_parse_from(["mesh-agent"].iter().chain(args)).expect_err("refused").to_string()
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_the_documented_ones() {
    let options = options(&["--config", "mesh.d", "--node", "n1"]);
    assert_eq!(options.run_dir, Path::new("/run/undermesh"));
    assert_eq!(options.cluster_domain, "cluster.local");
    assert_eq!(options.metrics_addr, "127.0.0.1:15090".parse().ok());
    assert_eq!(options.drain_timeout, Duration::from_secs(30));
    assert_eq!(options.access_log, None, "off, unless the MeshConfig says where");
    assert_eq!(options.stop, Stop::Release);
    assert!(options.workers >= 1);
    let kernel = options.kernel.expect("the kernel is used unless refused");
    assert_eq!((kernel.failure_policy, kernel.sk_msg), (FailurePolicy::Open, SkMsg::Auto));
}

#[test]
fn a_run_without_kernel_takes_explicit_listeners() {
    let options = options(&[
        "--config=a.yaml",
        "--config=b",
        "--no-kernel",
        "--listen=127.0.0.1:8080=default/web:80",
        "--listen=[::1]:8081=ns/grpc:9000",
        "--metrics-addr=off",
        "--access-log=-",
        "--workers=1",
        "--remove-on-exit",
        "--drain-timeout=1s500ms",
    ]);
    assert!(options.kernel.is_none());
    assert!(matches!(&options.config, ConfigFrom::Files(paths) if paths.len() == 2));
    let shown: Vec<String> = options.listen.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["127.0.0.1:8080=default/web:80", "[::1]:8081=ns/grpc:9000"]);
    assert_eq!((options.metrics_addr, options.workers, options.stop), (None, 1, Stop::Remove));
    assert_eq!(options.drain_timeout, Duration::from_millis(1500));
    assert_eq!(options.access_log.as_deref(), Some("-"));
}

#[test]
fn wrong_usage_names_the_flag_and_the_form() {
    assert!(refusal(&["run"]).contains("--config"));
    let text = refusal(&["run", "--config=x", "--listen=127.0.0.1:80"]);
    assert!(text.contains("ADDR=NAMESPACE/SERVICE:PORT"), "{text}");
    let text = refusal(&["run", "--config=x", "--listen=127.0.0.1:80=web:80"]);
    assert!(text.contains("NAMESPACE/SERVICE:PORT"), "{text}");
    let text = refusal(&["run", "--config=x", "--metrics-addr=yes"]);
    assert!(text.contains("off"), "{text}");
    let text = refusal(&["run", "--config=x", "--handover", "--remove-on-exit"]);
    assert!(text.contains("cannot be used with"), "{text}");
    assert!(refusal(&["run", "--config=x", "--workers=0"]).contains("workers"));
    assert!(refusal(&["status", "-o", "xml"]).contains("table"));
}

#[test]
fn place_and_format_may_stand_behind_the_subcommand() {
    let cli = Cli::try_parse_from(["mesh-agent", "status", "--run-dir", "/x", "-o", "json"]).expect("parses");
    assert_eq!(cli.place.socket(), Path::new("/x/agent.sock"));
    let cli = Cli::try_parse_from(["mesh-agent", "--socket", "/y.sock", "services"]).expect("parses");
    assert_eq!(cli.place.socket(), Path::new("/y.sock"));
    let cli = Cli::try_parse_from(["mesh-agent", "dashboard", "--run-dir=/a", "--run-dir=/b"]).expect("parses");
    assert_eq!(cli.place.sockets(), [Path::new("/a/agent.sock"), Path::new("/b/agent.sock")]);
}

#[test]
fn help_teaches_by_example_and_states_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for needle in ["Examples:", "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no agent to ask."] {
        assert!(help.contains(needle), "{needle}\n{help}");
    }
    let mut cli = Cli::command();
    let run = cli.find_subcommand_mut("run").expect("run").render_long_help().to_string();
    for needle in ["Examples:", "On SIGTERM", "--remove-on-exit", "--drain-timeout"] {
        assert!(run.contains(needle), "{needle}\n{run}");
    }
}

#[test]
fn an_error_says_each_thing_once() {
    let cause = std::io::Error::from_raw_os_error(13);
    let said =
        anyhow::Error::new(crate::admin::AdminError::RunDir { path: "/x".into(), source: cause }).context("start");
    let text = super::chain(&said);
    assert_eq!(text.matches("Permission denied").count(), 1, "{text}");
    assert!(text.starts_with("start: ") && text.contains("--run-dir"), "{text}");
}

#[test]
fn a_clusters_agents_are_asked_only_where_that_means_something() {
    let misused = |args: &[&str]| {
        let cli = Cli::try_parse_from(["mesh-agent"].iter().chain(args)).expect("parses");
        cli.place.remote.misused(&cli.command)
    };
    for fine in [
        &["status", "--cluster"][..],
        &["explain", "web:80", "--node", "n1", "--kubeconfig", "k"],
        &["run", "--kube", "--kubeconfig", "k", "--node", "n1"],
        &["install", "--kubeconfig", "k", "--context", "c"],
    ] {
        assert_eq!(misused(fine), None, "{fine:?}");
    }
    for wrong in [&["run", "--kube", "--cluster"][..], &["install", "--node", "n1"], &["uninstall", "--cluster"]] {
        assert!(misused(wrong).is_some(), "{wrong:?}");
    }
    assert!(refusal(&["status", "--cluster", "--socket", "/a"]).contains("cannot be used with"));
}
