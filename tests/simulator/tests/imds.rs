//! The metadata service follows the rules that clients know, and breaks them on request.

use eic_simulator::faults::{Effect, Fault};
use eic_simulator::world::Instance;
use eic_simulator::{Simulator, World, imds};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const ID: &str = "i-0123456789abcdef0";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

/// What came back: status (0 for no answer at all), head in lower case, body.
#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Got {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own, as raw as it gets.
fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Got {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a socket");
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    stream
        .write_all(format!("{request}\r\n").as_bytes())
        .expect("it is taken");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let end = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Got {
        status,
        head,
        body: answer.get(end + 4..).unwrap_or_default().to_vec(),
    }
}

fn token(simulator: &Simulator) -> String {
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
    let got = ask(simulator.imds_address(), "PUT", imds::TOKEN, &ttl);
    assert_eq!(got.status, 200, "{got:?}");
    got.text()
}

fn get(simulator: &Simulator, path: &str) -> Got {
    let token = token(simulator);
    ask(
        simulator.imds_address(),
        "GET",
        path,
        &[("X-aws-ec2-metadata-token", &token)],
    )
}

fn start() -> Simulator {
    Simulator::start(World::nitro(ID)).expect("it starts")
}

#[test]
fn documents_need_a_token() {
    let simulator = start();
    assert_eq!(
        ask(simulator.imds_address(), "GET", imds::INSTANCE_ID, &[]).status,
        401
    );
    let wrong = [("X-aws-ec2-metadata-token", "wrong")];
    assert_eq!(
        ask(simulator.imds_address(), "GET", imds::INSTANCE_ID, &wrong).status,
        401
    );
    assert_eq!(get(&simulator, imds::INSTANCE_ID).text(), ID);
}

#[test]
fn token_is_refused_without_a_sane_lifetime() {
    let simulator = start();
    let status = |headers: &[(&str, &str)]| ask(simulator.imds_address(), "PUT", imds::TOKEN, headers).status;
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    assert_eq!(status(&[]), 400);
    assert_eq!(status(&[(ttl, "0")]), 400);
    assert_eq!(status(&[(ttl, "21601")]), 400);
    assert_eq!(status(&[(ttl, "x")]), 400);
    assert_eq!(status(&[(ttl, "1")]), 200);
    assert_eq!(status(&[(ttl, "21600")]), 200);
}

#[test]
fn token_is_refused_to_a_proxy_and_under_a_version() {
    let simulator = start();
    let ttl = ("X-aws-ec2-metadata-token-ttl-seconds", "60");
    let forwarded = ask(
        simulator.imds_address(),
        "PUT",
        imds::TOKEN,
        &[ttl, ("X-Forwarded-For", "10.0.0.1")],
    );
    assert_eq!(forwarded.status, 403);
    assert_eq!(
        ask(simulator.imds_address(), "PUT", "/2021-07-15/api/token", &[ttl]).status,
        403
    );
}

#[test]
fn token_ends() {
    let simulator = start();
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "1")];
    let token = ask(simulator.imds_address(), "PUT", imds::TOKEN, &ttl).text();
    std::thread::sleep(Duration::from_millis(1100));
    let old = [("X-aws-ec2-metadata-token", token.as_str())];
    assert_eq!(
        ask(simulator.imds_address(), "GET", imds::INSTANCE_ID, &old).status,
        401
    );
}

#[test]
fn switched_off_service_answers_403() {
    let simulator = start();
    simulator.change(|i| i.imds_enabled = false);
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
    assert_eq!(
        ask(simulator.imds_address(), "PUT", imds::TOKEN, &ttl).status,
        403
    );
}

#[test]
fn connection_is_closed_after_each_answer() {
    let simulator = start();
    let got = get(&simulator, imds::REGION);
    assert_eq!(got.text(), "us-east-1");
    assert_eq!(got.head.matches("connection: close").count(), 1, "{}", got.head);
    assert!(got.head.contains("server: ec2ws"));
    assert!(got.head.contains("date: "));
    let requests = simulator.requests();
    assert_ne!(requests[0].connection, requests[1].connection);
}

#[test]
fn connection_is_kept_where_asked() {
    let simulator = Simulator::start(World::nitro(ID).keep_alive()).expect("it starts");
    let mut stream = TcpStream::connect(simulator.imds_address()).expect("somebody listens");
    for _ in 0..2 {
        write!(stream, "PUT {} HTTP/1.1\r\nHost: x\r\n\r\n", imds::TOKEN).expect("it is taken");
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).expect("an answer");
        assert!(answer[..read].starts_with(b"HTTP/1.1 400 "));
    }
    let requests = simulator.requests();
    assert_eq!(requests[0].connection, requests[1].connection);
}

#[test]
fn directories_list_what_they_hold() {
    let simulator = start();
    assert_eq!(
        get(&simulator, "/latest/meta-data/placement/").text(),
        "availability-zone\nregion"
    );
    let root = get(&simulator, "/latest/meta-data/").text();
    assert!(root.lines().any(|l| l == "instance-id") && root.lines().any(|l| l == "managed-ssh-keys/"));
    assert!(get(&simulator, "/").text().ends_with("latest"));
    let staples = get(&simulator, imds::SIGNER_OCSP).text();
    assert_eq!(staples.split_whitespace().count(), 3);
}

#[test]
fn staples_are_base64_of_their_der() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let simulator = start();
    for (name, der) in simulator.signer().staples {
        let got = get(&simulator, &format!("{}{name}", imds::SIGNER_OCSP));
        assert_eq!(STANDARD.decode(got.body).expect("base64"), der);
    }
    assert_eq!(
        get(&simulator, imds::SIGNER_CERT).text(),
        simulator.signer().chain
    );
}

#[test]
fn pushed_key_is_served_to_its_user_alone_and_ends() {
    let simulator = Simulator::start(World::nitro(ID).key_lifetime(2)).expect("it starts");
    let path = format!("{}ec2-user/", imds::ACTIVE_KEYS);
    assert_eq!(get(&simulator, &path).status, 404);
    let request = simulator.push("ec2-user", &format!("{KEY} a comment\n"));
    let served = get(&simulator, &path).text();
    assert!(
        served.contains(&format!("#Request={request}\n{KEY}\n")),
        "{served}"
    );
    assert!(served.ends_with("\n\n"));
    assert_eq!(
        get(&simulator, &format!("{}root/", imds::ACTIVE_KEYS)).status,
        404
    );
    let begin = Instant::now();
    while get(&simulator, &path).status != 404 {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the key should be gone by now"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn user_names_are_taken_as_they_are() {
    let simulator = start();
    for user in ["a@b", "a.b-c_d", "svc$", "a%40b"] {
        simulator.push(user, KEY);
        assert_eq!(
            get(&simulator, &format!("{}{user}/", imds::ACTIVE_KEYS)).status,
            200,
            "{user}"
        );
    }
    simulator.expire_keys();
    simulator.push("a@b", KEY);
    assert_eq!(
        get(&simulator, &format!("{}a%40b/", imds::ACTIVE_KEYS)).status,
        404
    );
}

#[test]
fn head_answers_like_get_without_the_body() {
    let simulator = start();
    let token = token(&simulator);
    let got = ask(
        simulator.imds_address(),
        "HEAD",
        imds::INSTANCE_ID,
        &[("X-aws-ec2-metadata-token", &token)],
    );
    assert_eq!((got.status, got.body.len()), (200, 0));
    assert!(got.head.contains("content-length: 19"), "{}", got.head);
}

#[test]
fn identity_document_and_placement_tell_one_story() {
    let world = World::nitro(ID)
        .region("eu-central-1")
        .change(|i| i.zone = "eu-central-1-ham-1a".to_owned());
    let simulator = Simulator::start(world).expect("it starts");
    let identity: serde_json::Value =
        serde_json::from_slice(&get(&simulator, imds::IDENTITY).body).expect("JSON");
    assert_eq!(identity["region"], "eu-central-1");
    assert_eq!(identity["instanceId"], ID);
    assert_eq!(get(&simulator, imds::ZONE).text(), "eu-central-1-ham-1a");
    assert_eq!(get(&simulator, imds::DOMAIN).text(), "amazonaws.com");
}

#[test]
fn instances_are_told_apart_by_address() {
    let other = "i-0fedcba9876543210";
    let simulator =
        Simulator::start(World::nitro(ID).and(Instance::new(other).region("cn-north-1"))).expect("it starts");
    let second = simulator.at(other).expect("it is there");
    assert_ne!(simulator.imds_address(), second.imds_address());
    let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
    let token = ask(second.imds_address(), "PUT", imds::TOKEN, &ttl).text();
    let with = [("X-aws-ec2-metadata-token", token.as_str())];
    assert_eq!(
        ask(second.imds_address(), "GET", imds::INSTANCE_ID, &with).text(),
        other
    );
    assert_eq!(
        ask(simulator.imds_address(), "GET", imds::INSTANCE_ID, &with).status,
        401
    );
    assert_eq!(second.requests().len(), 2);
}

#[test]
fn throttling_ends_when_it_was_said_to() {
    let simulator = start();
    simulator.fault(Fault::on(imds::REGION, Effect::Status(429)).times(2));
    let statuses: Vec<u16> = (0..3).map(|_| get(&simulator, imds::REGION).status).collect();
    assert_eq!(statuses, [429, 429, 200]);
}

#[test]
fn bodies_can_be_cut_short_dripped_or_endless() {
    let simulator = start();
    simulator.fault(Fault::on(imds::REGION, Effect::Truncate(3)));
    let cut = get(&simulator, imds::REGION);
    assert_eq!(cut.text(), "us-");
    assert!(cut.head.contains("content-length: 9"), "{}", cut.head);

    simulator.clear_faults();
    simulator.fault(Fault::on(
        imds::REGION,
        Effect::Drip {
            bytes: 3,
            every_ms: 50,
        },
    ));
    let begin = Instant::now();
    assert_eq!(get(&simulator, imds::REGION).text(), "us-east-1");
    assert!(begin.elapsed() >= Duration::from_millis(100));

    simulator.clear_faults();
    simulator.fault(Fault::on(imds::REGION, Effect::Endless));
    let token = token(&simulator);
    let mut stream = TcpStream::connect(simulator.imds_address()).expect("somebody listens");
    write!(
        stream,
        "GET {} HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n",
        imds::REGION
    )
    .expect("it is taken");
    let mut much = vec![0; 3 << 20];
    stream.read_exact(&mut much).expect("more than anybody wants");
}

#[test]
fn connections_can_be_reset_closed_delayed_and_stalled() {
    let simulator = start();
    let outcome = |effect: Effect| {
        simulator.clear_faults();
        simulator.fault(Fault::on(imds::TOKEN, effect));
        let mut stream = TcpStream::connect(simulator.imds_address()).expect("somebody listens");
        stream
            .set_read_timeout(Some(Duration::from_millis(400)))
            .expect("a socket");
        write!(stream, "PUT {} HTTP/1.1\r\nHost: x\r\n\r\n", imds::TOKEN).expect("it is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(|e| e.kind())
    };
    assert_eq!(outcome(Effect::Reset), Err(std::io::ErrorKind::ConnectionReset));
    assert_eq!(outcome(Effect::Close), Ok(0));
    assert_eq!(outcome(Effect::Stall), Err(std::io::ErrorKind::WouldBlock));
    assert!(outcome(Effect::Delay(10)).is_ok_and(|n| n > 0));
}

#[test]
fn answers_can_point_elsewhere_and_carry_huge_headers() {
    let simulator = start();
    simulator.fault(Fault::on(
        imds::REGION,
        Effect::Redirect("http://127.0.0.1:1/".to_owned()),
    ));
    let got = get(&simulator, imds::REGION);
    assert_eq!(got.status, 302);
    assert!(got.head.contains("location: http://127.0.0.1:1/"));
    simulator.clear_faults();
    simulator.fault(Fault::on(imds::REGION, Effect::HugeHeader(200_000)));
    assert!(get(&simulator, imds::REGION).head.len() > 200_000);
}

#[test]
fn tampering_lasts_until_it_is_undone() {
    let simulator = start();
    simulator.push("ec2-user", KEY);
    let honest = simulator.document("ec2-user");
    simulator.tamper("ec2-user", ID, "i-0fedcba9876543210");
    let path = format!("{}ec2-user/", imds::ACTIVE_KEYS);
    assert!(get(&simulator, &path).text().contains("i-0fedcba9876543210"));
    simulator.restore();
    assert_eq!(get(&simulator, &path).body, honest.expect("there was one"));
}

#[test]
fn rotation_changes_issuer_and_key_but_not_the_root() {
    let simulator = start();
    let before = simulator.signer();
    simulator.rotate();
    let after = simulator.signer();
    assert_ne!(before.issuers[0].subject, after.issuers[0].subject);
    assert_ne!(before.leaf.spec.key, after.leaf.spec.key);
    assert_eq!(before.root.spec, after.root.spec);
}

#[test]
fn state_directory_holds_what_the_helper_needs_and_goes_with_the_simulator() {
    let simulator = start();
    let tag = simulator.sysfs().join("devices/virtual/dmi/id/board_asset_tag");
    assert_eq!(std::fs::read_to_string(tag).expect("a file"), format!("{ID}\n"));
    assert!(
        std::fs::read_to_string(simulator.root_pem())
            .expect("a file")
            .starts_with("-----BEGIN")
    );
    let config = std::fs::read_to_string(simulator.config_file()).expect("a file");
    assert!(toml::from_str::<toml::Table>(&config).is_ok(), "{config}");
    assert!(config.contains(&simulator.endpoint()));
    let directory = simulator.state_dir();
    let address = simulator.imds_address();
    drop(simulator);
    assert!(!directory.exists());
    assert!(TcpStream::connect(address).is_err());
}
