//! The shipped helper against the simulator, run as sshd runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that fails shall say so at once"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::case::{INSTANCE, KEY_LINE, MD5, SHA256};
use common::run::{self, HELPER, Outcome, helper, login, with_config};
use eic_simulator::certificate::CertSpec;
use eic_simulator::faults::{Effect, Fault};
use eic_simulator::key::{Hash, Key};
use eic_simulator::record::Record;
use eic_simulator::signer::{Part, SignerSpec, StapleName, keys};
use eic_simulator::{Simulator, World};

const USER: &str = "ec2-user";
const TOKEN: &str = "/latest/api/token";
const KEYS: &str = "/latest/meta-data/managed-ssh-keys/active-keys/ec2-user/";
const CERT: &str = "/latest/meta-data/managed-ssh-keys/signer-cert/";
const OCSP: &str = "/latest/meta-data/managed-ssh-keys/signer-ocsp/";
const REGION: &str = "/latest/meta-data/placement/region";
const DOMAIN: &str = "/latest/meta-data/services/domain/";

/// A simulator with one key pushed for [`USER`].
fn simulator() -> Simulator {
    pushed(World::nitro(INSTANCE))
}

fn pushed(world: World) -> Simulator {
    let simulator = Simulator::start(world).unwrap();
    simulator.push(USER, KEY_LINE);
    simulator
}

/// The usual login gives its key; with `fault` alone it is refused for `reason`; without it again, the key.
#[track_caller]
fn refused_under(fault: Fault, reason: &str) -> usize {
    let simulator = simulator();
    login(&simulator, USER).gave(&[KEY_LINE]);
    simulator.clear_requests();
    simulator.fault(fault);
    login(&simulator, USER).refused(reason);
    let requests = simulator.requests().len();
    simulator.clear_faults();
    login(&simulator, USER).gave(&[KEY_LINE]);
    requests
}

/// The usual login still gives its key under `fault`.
#[track_caller]
fn survives(fault: Fault) {
    let simulator = simulator();
    simulator.fault(fault);
    login(&simulator, USER).gave(&[KEY_LINE]);
}

/// The simulator's configuration with `text` in place of a line that starts with `key`, or added under its table.
fn configured(simulator: &Simulator, table: &str, line: &str) -> (tempfile::TempDir, PathBuf) {
    let key = line.split(' ').next().unwrap();
    let mut text = String::new();
    let mut seen = false;
    for existing in simulator
        .config_toml()
        .lines()
        .filter(|existing| !existing.starts_with(&format!("{key} =")))
    {
        text += &format!("{existing}\n");
        if existing == format!("[{table}]") {
            text += &format!("{line}\n");
            seen = true;
        }
    }
    if !seen {
        text += &format!("[{table}]\n{line}\n");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    (directory, path)
}

fn login_with(simulator: &Simulator, table: &str, line: &str) -> Outcome {
    let (_directory, path) = configured(simulator, table, line);
    with_config(&path, &[USER])
}

// ---- the contract with sshd ----

#[test]
fn pushed_key_is_printed_as_one_bare_line() {
    let simulator = simulator();
    let outcome = login(&simulator, USER);
    outcome.gave(&[KEY_LINE]);
    assert!(
        outcome
            .stderr
            .starts_with("Providing ssh key from EC2 Instance Connect"),
        "{outcome:?}"
    );
    assert_eq!(outcome.reasons(), Vec::<&str>::new());
}

#[test]
fn only_the_key_that_sshd_asks_about_is_printed() {
    let simulator = simulator();
    for fingerprint in [SHA256, MD5] {
        with_config(&simulator.config_file(), &[USER, fingerprint]).gave(&[KEY_LINE]);
    }
    let other = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    with_config(&simulator.config_file(), &[USER, other]).refused("fingerprint");
    with_config(&simulator.config_file(), &[USER, "SHA512:x"]).refused("fingerprint-form");
}

#[test]
fn key_of_one_user_is_not_given_to_another() {
    let simulator = simulator();
    login(&simulator, "root").refused("no-key");
}

#[test]
fn same_key_pushed_twice_is_printed_once_and_two_keys_are_two_lines() {
    let simulator = simulator();
    simulator.push(USER, KEY_LINE);
    let other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    simulator.push(USER, other);
    login(&simulator, USER).gave(&[KEY_LINE, other]);
}

#[test]
fn wrong_usage_is_exit_2_with_nothing_on_stdout() {
    for words in [&[][..], &["a", "b", "c"], &["--config", "/x", "a", "b", "c"]] {
        let outcome = helper(words);
        assert_eq!(
            (outcome.stdout.as_str(), outcome.code),
            ("", Some(2)),
            "{words:?}"
        );
        assert!(outcome.stderr.starts_with("Usage:"), "{outcome:?}");
    }
}

#[test]
fn help_and_version_are_exit_0() {
    assert!(
        helper(["--help"])
            .stdout
            .starts_with("Usage: eic_run_authorized_keys")
    );
    assert_eq!(
        helper(["--version"]).stdout,
        concat!("eic_run_authorized_keys ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn help_names_what_the_manual_page_names() {
    let manual = include_str!("../packaging/man/eic_run_authorized_keys.8").replace("\\-", "-");
    for word in helper(["--help"])
        .stdout
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
    {
        assert!(manual.contains(word), "{word} is not in the manual page");
    }
    let help = helper(["--help"]).stdout;
    let option = regex::Regex::new("--[a-z][a-z-]+").unwrap();
    for word in option.find_iter(&manual) {
        assert!(
            help.contains(word.as_str()),
            "{} is in the manual page alone",
            word.as_str()
        );
    }
    assert!(manual.contains(&format!("ec2-instance-connect {}", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn nothing_is_written_to_stderr_where_no_person_looks() {
    let simulator = simulator();
    let mut command = Command::new(HELPER);
    run::sshd_environment(&mut command);
    let output = command
        .arg("--config")
        .arg(simulator.config_file())
        .arg("nobody-here")
        .output()
        .unwrap();
    assert_eq!(
        (output.stdout, output.stderr, output.status.code()),
        (vec![], vec![], Some(0))
    );
}

#[test]
fn a_reader_that_closes_early_is_success() {
    let simulator = simulator();
    for number in 0..200 {
        let key = format!("{} {number}", KEY_LINE);
        simulator.push(USER, &key);
    }
    let mut command = Command::new(HELPER);
    run::sshd_environment(&mut command);
    let mut child = command
        .arg("--config")
        .arg(simulator.config_file())
        .arg(USER)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn proxies_of_the_environment_are_not_asked() {
    let simulator = simulator();
    let mut command = Command::new(HELPER);
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", trap.local_addr().unwrap());
    run::sshd_environment(&mut command);
    command.arg("--config").arg(simulator.config_file()).arg(USER);
    for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, &proxy);
    }
    let output = command.output().unwrap();
    assert_eq!(output.stdout, format!("{KEY_LINE}\n").as_bytes());
    trap.set_nonblocking(true).unwrap();
    assert!(trap.accept().is_err(), "the proxy was connected to");
}

// ---- requests ----

#[test]
fn user_without_a_key_costs_two_requests() {
    let simulator = simulator();
    login(&simulator, "nobody-here").refused("no-key");
    let requests: Vec<String> = simulator
        .requests()
        .iter()
        .map(|r| format!("{} {} {}", r.method, r.path, r.status))
        .collect();
    assert_eq!(
        requests,
        [
            "PUT /latest/api/token 200",
            "GET /latest/meta-data/managed-ssh-keys/active-keys/nobody-here/ 404"
        ]
    );
}

#[test]
fn key_that_was_not_pushed_costs_two_requests() {
    let simulator = simulator();
    let other = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU";
    with_config(&simulator.config_file(), &[USER, other]).refused("fingerprint");
    assert_eq!(simulator.requests().len(), 2, "{:#?}", simulator.requests());
    // What is wrong with a document is still found, whichever key is asked about.
    simulator.put_document(USER, "nonsense");
    with_config(&simulator.config_file(), &[USER, other]).refused("record-malformed");
}

#[test]
fn user_with_a_key_costs_nine_requests_on_nitro_and_ten_on_xen() {
    let simulator = simulator();
    // Production's chain has four certificates, three with a staple; which of them the path needs is not known
    // before all has arrived.
    login(&simulator, USER).gave(&[KEY_LINE]);
    assert_eq!(simulator.requests().len(), 9, "{:#?}", simulator.requests());

    let xen = pushed(World::xen(INSTANCE));
    login(&xen, USER).gave(&[KEY_LINE]);
    assert_eq!(xen.requests().len(), 9, "pinned: {:#?}", xen.requests());
    xen.clear_requests();
    let (_directory, unpinned) = configured(&xen, "log", "level = \"info\"");
    let text: String = fs::read_to_string(&unpinned)
        .unwrap()
        .lines()
        .filter(|l| !l.starts_with("id ="))
        .map(|l| format!("{l}\n"))
        .collect();
    fs::write(&unpinned, text).unwrap();
    with_config(&unpinned, &[USER]).gave(&[KEY_LINE]);
    assert_eq!(xen.requests().len(), 10, "unpinned: {:#?}", xen.requests());
}

#[test]
fn requests_come_in_four_rounds() {
    let simulator = simulator();
    // With every answer 100 ms late, the rounds are seen as steps in time.
    simulator.fault(Fault::under("/", Effect::Delay(100)));
    login(&simulator, USER).gave(&[KEY_LINE]);
    let requests = simulator.requests();
    let mut times: Vec<_> = requests.iter().map(|request| request.time).collect();
    times.sort();
    let gaps = times
        .windows(2)
        .filter(|pair| pair[1].duration_since(pair[0]).unwrap() > Duration::from_millis(60))
        .count();
    assert!(
        gaps <= 3,
        "{gaps} gaps between {} requests: {requests:#?}",
        requests.len()
    );
}

#[test]
fn staples_named_by_sha256_cost_no_request_more() {
    let simulator = simulator();
    simulator.change_signer(|signer| {
        signer
            .staples
            .iter_mut()
            .for_each(|staple| staple.name = StapleName::Fingerprint(Hash::Sha256));
    });
    simulator.expire_keys();
    simulator.push(USER, KEY_LINE);
    login(&simulator, USER).gave(&[KEY_LINE]);
    assert_eq!(simulator.requests().len(), 9, "{:#?}", simulator.requests());
}

#[test]
fn staples_of_any_name_are_found_among_sixteen_and_no_more_are_fetched() {
    let simulator = simulator();
    let names: Vec<String> = simulator
        .signer()
        .staples
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    simulator.change_signer(|signer| {
        for (number, staple) in signer.staples.iter_mut().enumerate() {
            staple.name = StapleName::Text(format!("named-{number}"));
        }
    });
    simulator.expire_keys();
    simulator.push(USER, KEY_LINE);
    login(&simulator, USER).gave(&[KEY_LINE]);

    // A list of a thousand names, none of them a staple: refused after sixteen of them.
    let liars: String = (0..1000).map(|number| format!("liar-{number}\n")).collect();
    simulator.put(OCSP, liars);
    simulator.clear_requests();
    login(&simulator, USER).refused("staple-missing");
    let asked = simulator
        .requests()
        .iter()
        .filter(|request| request.path.contains("liar-"))
        .count();
    assert_eq!(asked, 16);
    assert_eq!(names.len(), 3);
}

#[test]
fn name_outside_the_services_shape_costs_no_request() {
    let simulator = simulator();
    for name in ["../root", "a/b", "a b", "a%40b", "", "-x", &"a".repeat(33)] {
        login(&simulator, name).refused("user");
    }
    assert!(simulator.requests().is_empty(), "{:#?}", simulator.requests());
}

#[test]
fn names_with_the_services_odd_characters_stand_raw_in_the_path() {
    let simulator = simulator();
    for name in ["svc$", "a@b.c", "0user", "_", "a-b_c.d"] {
        simulator.push(name, KEY_LINE);
        login(&simulator, name).gave(&[KEY_LINE]);
        let path = format!("/latest/meta-data/managed-ssh-keys/active-keys/{name}/");
        assert!(
            simulator.requests().iter().any(|request| request.path == path),
            "{name}"
        );
    }
}

#[test]
fn service_that_keeps_connections_open_is_as_good() {
    let simulator = simulator();
    simulator.set_keep_alive(true);
    login(&simulator, USER).gave(&[KEY_LINE]);
}

// ---- the host ----

#[test]
fn host_that_is_not_ec2_is_refused_without_a_request() {
    let simulator = simulator();
    let empty = tempfile::tempdir().unwrap();
    login_with(
        &simulator,
        "instance",
        &format!("sysfs = \"{}\"", empty.path().display()),
    )
    .refused("not-ec2");
    assert!(simulator.requests().is_empty(), "{:#?}", simulator.requests());
}

#[test]
fn pinned_id_of_another_instance_is_refused_and_our_own_accepted() {
    let simulator = simulator();
    login_with(&simulator, "instance", "id = \"i-0fedcba9876543210\"").refused("instance-id");
    login_with(&simulator, "instance", &format!("id = \"{INSTANCE}\"")).gave(&[KEY_LINE]);
}

#[test]
fn metadata_cannot_rename_a_nitro_instance_and_on_xen_a_pin_holds() {
    let other = "i-0fedcba9876543210";
    for simulator in [simulator(), pushed(World::xen(INSTANCE))] {
        let (_directory, path) = configured(&simulator, "log", "level = \"info\"");
        with_config(&path, &[USER]).gave(&[KEY_LINE]);
        simulator.change(|facts| facts.id = other.to_owned());
        // The record for us still counts, and the liar's own does not.
        with_config(&path, &[USER]).gave(&[KEY_LINE]);
        simulator.expire_keys();
        simulator.push_record(USER, &Record::new(other, KEY_LINE));
        with_config(&path, &[USER]).refused("record-instance");
    }
}

#[test]
fn metadata_that_gives_no_instance_id_on_xen_is_refused() {
    let xen = pushed(World::xen(INSTANCE));
    let text: String = xen
        .config_toml()
        .lines()
        .filter(|l| !l.starts_with("id ="))
        .map(|l| format!("{l}\n"))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    fs::write(&path, text).unwrap();
    with_config(&path, &[USER]).gave(&[KEY_LINE]);
    xen.put("/latest/meta-data/instance-id", "i-XYZ");
    with_config(&path, &[USER]).refused("instance-id");
}

// ---- the metadata service ----

#[test]
fn dropped_connection_is_tried_once_more_and_no_more() {
    for effect in [Effect::Reset, Effect::Close] {
        for path in [TOKEN, KEYS, CERT, REGION] {
            survives(Fault::on(path, effect.clone()).times(1));
        }
    }
    assert_eq!(
        refused_under(Fault::on(TOKEN, Effect::Reset), "imds-unreachable"),
        2
    );
    assert_eq!(
        refused_under(Fault::on(KEYS, Effect::Close), "imds-unreachable"),
        3
    );
    refused_under(Fault::on(CERT, Effect::Truncate(10)), "imds-unreachable");
}

#[test]
fn throttling_is_tried_twice_more_and_no_more() {
    for status in [429, 503] {
        for path in [TOKEN, KEYS, DOMAIN] {
            survives(Fault::on(path, Effect::Status(status)).times(2));
        }
        assert_eq!(
            refused_under(Fault::on(TOKEN, Effect::Status(status)), "imds-throttled"),
            3
        );
        assert_eq!(
            refused_under(Fault::on(KEYS, Effect::Status(status)), "imds-throttled"),
            4
        );
    }
}

#[test]
fn an_ill_service_is_tried_once_more_and_no_more() {
    survives(Fault::on(KEYS, Effect::Status(500)).times(1));
    assert_eq!(
        refused_under(Fault::on(KEYS, Effect::Status(500)), "imds-status"),
        3
    );
}

#[test]
fn time_out_is_not_tried_again() {
    let simulator = simulator();
    simulator.fault(Fault::on(KEYS, Effect::Stall));
    let begun = Instant::now();
    login(&simulator, USER).refused("imds-timeout");
    assert_eq!(simulator.requests().len(), 2);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn metadata_that_is_switched_off_is_refused() {
    let simulator = simulator();
    simulator.change(|facts| facts.imds_enabled = false);
    login(&simulator, USER).refused("imds-forbidden");
    simulator.change(|facts| facts.imds_enabled = true);
    login(&simulator, USER).gave(&[KEY_LINE]);
    refused_under(Fault::on(CERT, Effect::Status(403)), "imds-forbidden");
}

#[test]
fn other_statuses_and_redirects_are_refused_at_once() {
    for status in [400, 401, 405, 418] {
        assert_eq!(
            refused_under(Fault::on(KEYS, Effect::Status(status)), "imds-status"),
            2,
            "{status}"
        );
    }
    let elsewhere = simulator();
    let target = format!("{}{KEYS}", elsewhere.endpoint());
    assert_eq!(
        refused_under(Fault::on(KEYS, Effect::Redirect(target)), "imds-status"),
        2
    );
    assert!(elsewhere.requests().is_empty(), "the redirect was followed");
    refused_under(Fault::on(TOKEN, Effect::Status(404)), "imds-status");
}

#[test]
fn document_that_must_be_there_and_is_not_is_refused() {
    for path in [CERT, DOMAIN] {
        refused_under(Fault::on(path, Effect::Status(404)), "imds-absent");
    }
    refused_under(Fault::on(OCSP, Effect::Status(404)), "staple-missing");
}

#[test]
fn region_comes_from_the_identity_document_where_placement_does_not_say() {
    let simulator = simulator();
    simulator.fault(Fault::on(REGION, Effect::Status(404)));
    login(&simulator, USER).gave(&[KEY_LINE]);
    simulator.fault(Fault::on(
        "/latest/dynamic/instance-identity/document",
        Effect::Body("{}".to_owned()),
    ));
    login(&simulator, USER).refused("imds-malformed");
    simulator.clear_faults();
    simulator.fault(Fault::on(REGION, Effect::Status(404)));
    simulator.fault(Fault::on(
        "/latest/dynamic/instance-identity/document",
        Effect::Status(404),
    ));
    login(&simulator, USER).refused("imds-absent");
}

#[test]
fn zones_that_do_not_contain_their_region_do_no_harm() {
    for zone in ["us-west-2-lax-1a", "us-east-1-wl1-bos-wlz-1"] {
        let region = zone.splitn(4, '-').take(3).collect::<Vec<_>>().join("-");
        let simulator = pushed(
            World::nitro(INSTANCE)
                .region(&region)
                .change(|facts| facts.zone = zone.to_owned()),
        );
        login(&simulator, USER).gave(&[KEY_LINE]);
    }
}

#[test]
fn every_partition_has_its_logins() {
    for region in [
        "us-east-1",
        "mx-central-1",
        "cn-north-1",
        "us-gov-west-1",
        "us-iso-east-1",
        "us-isob-east-1",
        "eu-isoe-west-1",
        "us-isof-south-1",
        "eusc-de-east-1",
    ] {
        let simulator = pushed(World::nitro(INSTANCE).region(region));
        login(&simulator, USER).gave(&[KEY_LINE]);
        let elsewhere = if region == "us-east-1" {
            "cn-north-1"
        } else {
            "us-east-1"
        };
        simulator.put(REGION, elsewhere);
        let reasons = login(&simulator, USER);
        assert_eq!(reasons.stdout, "");
        // us-gov shares its suffix with the public partition, so there the name is what refuses.
        assert!(
            ["partition", "signer-name"].contains(&reasons.reasons()[0]),
            "{region}: {reasons:?}"
        );
    }
}

#[test]
fn too_large_documents_and_headers_are_refused() {
    refused_under(Fault::on(KEYS, Effect::Endless), "imds-too-large");
    refused_under(Fault::on(CERT, Effect::Endless), "imds-too-large");
    refused_under(Fault::on(TOKEN, Effect::Body("x".repeat(2000))), "imds-too-large");
    refused_under(
        Fault::on(REGION, Effect::Body("x".repeat(70_000))),
        "imds-too-large",
    );
    refused_under(Fault::on(DOMAIN, Effect::HugeHeader(1_000_000)), "imds-too-large");
    let simulator = simulator();
    let record = simulator.document(USER).unwrap();
    let padded = |length: usize| [record.clone(), vec![b'\n'; length - record.len()]].concat();
    simulator.put_document(USER, padded(1024 * 1024));
    login(&simulator, USER).gave(&[KEY_LINE]);
    simulator.put_document(USER, padded(1024 * 1024 + 1));
    login(&simulator, USER).refused("imds-too-large");
}

#[test]
fn documents_of_no_form_are_refused() {
    refused_under(
        Fault::on(TOKEN, Effect::Body("two words".to_owned())),
        "imds-malformed",
    );
    refused_under(Fault::on(TOKEN, Effect::Body(String::new())), "imds-malformed");
    refused_under(
        Fault::on(REGION, Effect::Bytes(vec![0xff, 0xfe])),
        "imds-malformed",
    );
    refused_under(
        Fault::on(REGION, Effect::Body("us-east-1a".to_owned())),
        "imds-malformed",
    );
    refused_under(
        Fault::on(DOMAIN, Effect::Body("example.com".to_owned())),
        "partition",
    );
    refused_under(
        Fault::on(CERT, Effect::Body("nonsense".to_owned())),
        "signer-malformed",
    );
    refused_under(Fault::on(OCSP, Effect::Bytes(vec![0xff])), "imds-malformed");
    refused_under(
        Fault::on(KEYS, Effect::Body("nonsense".to_owned())),
        "record-malformed",
    );
    refused_under(Fault::on(KEYS, Effect::Body("\n\n".to_owned())), "no-key");
    // Values with a newline behind them are as good.
    survives(Fault::on(REGION, Effect::Body("us-east-1\n".to_owned())));
}

#[test]
fn nobody_at_the_address_is_unreachable() {
    let simulator = simulator();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    login_with(&simulator, "imds", &format!("endpoint = \"http://{free}\"")).refused("imds-unreachable");
    let not_http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = not_http.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut connection, _) = not_http.accept().unwrap();
        let mut buffer = [0; 1024];
        let _ = connection.read(&mut buffer);
        connection.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").unwrap();
    });
    login_with(&simulator, "imds", &format!("endpoint = \"http://{address}\"")).refused("imds-malformed");
    thread.join().unwrap();
}

#[test]
fn whole_decision_has_a_deadline() {
    let simulator = simulator();
    simulator.fault(Fault::under("/", Effect::Delay(150)));
    let (_directory, path) = configured(&simulator, "imds", "total_timeout_ms = 400");
    let begun = Instant::now();
    with_config(&path, &[USER]).refused("deadline");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    login(&simulator, USER).gave(&[KEY_LINE]);
}

#[test]
fn dripping_answer_is_a_time_out() {
    refused_under(
        Fault::on(
            CERT,
            Effect::Drip {
                bytes: 1,
                every_ms: 50,
            },
        ),
        "imds-timeout",
    );
}

// ---- what is proved: one of each kind through the whole helper; all of them are in tests/refusals.rs ----

#[test]
fn signer_that_is_not_awss_is_refused() {
    let flawed = |flaw: &dyn Fn(&mut SignerSpec), reason: &str| {
        let simulator = simulator();
        simulator.change_signer(flaw);
        simulator.expire_keys();
        simulator.push(USER, KEY_LINE);
        login(&simulator, USER).refused(reason);
    };
    flawed(
        &|signer| signer.leaf = CertSpec::signer("attacker.example", keys::LEAVES[0]),
        "signer-name",
    );
    flawed(
        &|signer| signer.leaf.signed_with = Some(keys::STRANGER),
        "signer-chain",
    );
    flawed(&|signer| signer.leaf.not_after = -1, "signer-expired");
    flawed(&|signer| signer.leaf.purposes = Some(vec![]), "signer-usage");
    flawed(&|signer| signer.leaf.key = Key::Rsa1536, "signer-key");
    flawed(&|signer| signer.staples.clear(), "staple-missing");
    flawed(&|signer| signer.served = vec![Part::Leaf], "signer-chain");
}

#[test]
fn signers_root_is_not_trusted_without_the_configuration_that_says_so() {
    let simulator = simulator();
    for anchors in ["auto", "amazon", "system"] {
        login_with(&simulator, "trust", &format!("anchors = \"{anchors}\"")).refused("signer-chain");
    }
    login_with(&simulator, "trust", "anchors = \"/nonexistent.pem\"").refused("anchors");
}

#[test]
fn rotated_signer_is_as_good() {
    let simulator = simulator();
    for _ in 0..4 {
        simulator.rotate();
        simulator.expire_keys();
        simulator.push(USER, KEY_LINE);
        login(&simulator, USER).gave(&[KEY_LINE]);
    }
}

#[test]
fn tampered_record_is_refused_and_the_true_one_accepted() {
    let simulator = simulator();
    simulator.tamper(USER, "user/alice", "user/bob");
    login(&simulator, USER).refused("record-signature");
    simulator.restore();
    login(&simulator, USER).gave(&[KEY_LINE]);
}

#[test]
fn expired_key_is_refused() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    simulator.push_record(USER, &Record::new(INSTANCE, KEY_LINE).expires(-41));
    let outcome = login(&simulator, USER);
    outcome.refused("record-expired");
    assert!(
        outcome.stderr.contains("expired 4") && outcome.stderr.contains(" s ago"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn thousand_records_in_one_document_are_judged() {
    let simulator = Simulator::start(World::nitro(INSTANCE)).unwrap();
    let record = Record::new(INSTANCE, KEY_LINE);
    let many: Vec<Record> = (0..1000)
        .map(|number| record.clone().header(&format!("#Number={number}")))
        .collect();
    let document =
        eic_simulator::record::document(&many, simulator.signer().key(), eic_simulator::clock::now());
    simulator.put_document(USER, document);
    login(&simulator, USER).gave(&[KEY_LINE]);
}

// ---- what is said ----

#[test]
fn debug_log_says_which_anchors_held_and_what_it_cost() {
    let simulator = simulator();
    let outcome = login_with(&simulator, "log", "level = \"debug\"");
    outcome.gave(&[KEY_LINE]);
    let decided = outcome
        .stderr
        .lines()
        .find(|line| line.starts_with("Decided "))
        .unwrap_or_default();
    let anchors = format!("anchors={}", simulator.root_pem().display());
    for word in [
        "user=ec2-user",
        "requests=9",
        "partition=aws",
        "signer=managed-ssh-signer.us-east-1.amazonaws.com",
        &anchors,
    ] {
        assert!(decided.contains(word), "{word}: {outcome:?}");
    }
    assert!(!login(&simulator, USER).stderr.contains("Decided "));
}

// ---- configuration ----

#[test]
fn configuration_with_any_fault_refuses_every_key_and_says_where() {
    let simulator = simulator();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    let good = simulator.config_toml();
    fs::write(&path, &good).unwrap();
    with_config(&path, &[USER]).gave(&[KEY_LINE]);

    fs::write(&path, format!("{good}\nanchor = \"x\"\n")).unwrap();
    let outcome = with_config(&path, &[USER]);
    outcome.refused("config");
    let line = good.lines().count() + 2;
    assert!(
        outcome
            .stderr
            .contains(&format!("config.toml:{line}:1: unknown field `anchor`")),
        "{}",
        outcome.stderr
    );

    fs::write(&path, &good).unwrap();
    for mode in [0o666, 0o620, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        with_config(&path, &[USER]).refused("config");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    with_config(&path, &[USER]).gave(&[KEY_LINE]);
    fs::write(&path, b"\xff").unwrap();
    with_config(&path, &[USER]).refused("config");
    fs::remove_file(&path).unwrap();
    with_config(&path, &[USER]).refused("config");
    fs::create_dir(&path).unwrap();
    with_config(&path, &[USER]).refused("config");
    simulator.clear_requests();
    assert!(simulator.requests().is_empty(), "{:#?}", simulator.requests());
}

#[test]
fn strangers_configuration_is_refused() {
    if !common::is_root() {
        return common::skip(
            "strangers_configuration_is_refused",
            "needs root to give a file away",
        );
    }
    let simulator = simulator();
    let (_directory, path) = configured(&simulator, "log", "level = \"info\"");
    with_config(&path, &[USER]).gave(&[KEY_LINE]);
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    with_config(&path, &[USER]).refused("config");
}

#[test]
fn anchors_that_others_may_write_are_refused() {
    let simulator = simulator();
    fs::set_permissions(simulator.root_pem(), fs::Permissions::from_mode(0o666)).unwrap();
    login(&simulator, USER).refused("anchors");
    fs::set_permissions(simulator.root_pem(), fs::Permissions::from_mode(0o644)).unwrap();
    login(&simulator, USER).gave(&[KEY_LINE]);
}
