//! The AWS API answers as the service does: to requests as raw as they come, and to the real clients.

use eic_simulator::faults::{Effect, Fault};
use eic_simulator::principals::{ALICE, BUILDER, FEDERATED, MALLORY, ROOT};
use eic_simulator::world::Instance;
use eic_simulator::{Simulator, World};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Output};

const ID: &str = "i-0123456789abcdef0";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

fn start() -> Simulator {
    Simulator::start(World::nitro(ID)).expect("it starts")
}

fn authorization(key_id: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential={key_id}/20260101/us-east-1/ec2-instance-connect/aws4_request, \
         SignedHeaders=host, Signature=00"
    )
}

fn post(simulator: &Simulator, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let address = simulator.api_endpoint().replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("somebody listens");
    let mut request = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    write!(stream, "{request}\r\n{body}").expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (
        status,
        answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default(),
    )
}

/// Status and exception's name, or the answer when there is none.
fn push(simulator: &Simulator, key_id: &str, input: &Value) -> (u16, Result<Value, String>) {
    let target = ("X-Amz-Target", "AWSEC2InstanceConnectService.SendSSHPublicKey");
    let authorization = authorization(key_id);
    let headers = [target, ("Authorization", authorization.as_str())];
    let (status, body) = post(simulator, &headers, &input.to_string());
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    match answer["__type"].as_str() {
        Some(name) => (status, Err(name.to_owned())),
        None => (status, Ok(answer)),
    }
}

fn input() -> Value {
    json!({ "InstanceId": ID, "InstanceOSUser": "ec2-user", "SSHPublicKey": format!("{KEY} me@here\n") })
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut changed = input();
    changed[name] = value.into();
    changed
}

fn refused(simulator: &Simulator, input: &Value, exception: &str) {
    let (status, result) = push(simulator, ALICE, input);
    assert_eq!((status, result), (400, Err(exception.to_owned())), "{input}");
}

#[test]
fn pushed_key_is_served_without_its_comment_under_the_callers_name() {
    let simulator = start();
    let (status, answer) = push(&simulator, ALICE, &input());
    let answer = answer.expect("a success");
    assert_eq!((status, &answer["Success"]), (200, &json!(true)));
    let document = String::from_utf8(simulator.document("ec2-user").expect("a key")).expect("text");
    let lines: Vec<&str> = document.lines().collect();
    assert!(lines[0].starts_with("#Timestamp="));
    assert_eq!(lines[1], format!("#Instance={ID}"));
    assert_eq!(lines[2], "#Caller=arn:aws:iam::123456789012:user/alice");
    assert_eq!(
        lines[3],
        format!("#Request={}", answer["RequestId"].as_str().expect("an id"))
    );
    assert_eq!(lines[4], KEY);
}

#[test]
fn every_kind_of_principal_becomes_the_caller() {
    let simulator = start();
    let callers = [
        (
            BUILDER,
            "arn:aws:sts::123456789012:assumed-role/Builder/nightly",
            "AssumedRole",
        ),
        (ROOT, "arn:aws:iam::123456789012:root", "Root"),
        (
            FEDERATED,
            "arn:aws:sts::123456789012:federated-user/erin",
            "FederatedUser",
        ),
        (ALICE, "arn:aws:iam::123456789012:user/alice", "IAMUser"),
    ];
    for (key_id, arn, kind) in callers {
        simulator.expire_keys();
        assert_eq!(push(&simulator, key_id, &input()).0, 200);
        let document = String::from_utf8(simulator.document("ec2-user").expect("a key")).expect("text");
        assert!(document.contains(&format!("#Caller={arn}\n")), "{document}");
        let event = simulator.trail().pop().expect("an event");
        assert_eq!(event["userIdentity"]["type"], kind);
        assert_eq!(event["userIdentity"]["arn"], arn);
    }
}

#[test]
fn arguments_outside_the_model_are_refused() {
    let simulator = start();
    refused(&simulator, &with("InstanceId", "i-xyz"), "InvalidArgsException");
    refused(
        &simulator,
        &with("InstanceOSUser", "no such"),
        "InvalidArgsException",
    );
    refused(
        &simulator,
        &with("SSHPublicKey", "ssh-ed25519 AAAA"),
        "InvalidArgsException",
    );
    refused(
        &simulator,
        &with("AvailabilityZone", "moon"),
        "InvalidArgsException",
    );
    refused(&simulator, &json!({}), "InvalidArgsException");
    assert!(
        push(&simulator, ALICE, &with("AvailabilityZone", "us-east-1a"))
            .1
            .is_ok()
    );
}

#[test]
fn instances_elsewhere_missing_or_stopped_are_refused() {
    let there = "i-0fedcba9876543210";
    let world = World::nitro(ID).and(Instance::new(there).region("eu-west-1"));
    let simulator = Simulator::start(world).expect("it starts");
    refused(
        &simulator,
        &with("InstanceId", "i-00000000000000000"),
        "EC2InstanceNotFoundException",
    );
    refused(
        &simulator,
        &with("InstanceId", there),
        "EC2InstanceNotFoundException",
    );
    refused(
        &simulator,
        &with("AvailabilityZone", "us-east-1b"),
        "EC2InstanceNotFoundException",
    );
    simulator.change(|i| i.state = "stopped".to_owned());
    refused(&simulator, &input(), "EC2InstanceStateInvalidException");
}

#[test]
fn policy_denies_what_it_does_not_allow() {
    let simulator = start();
    assert_eq!(
        push(&simulator, MALLORY, &input()).1,
        Err("AccessDeniedException".to_owned())
    );
    assert!(simulator.document("ec2-user").is_none());
    let event = simulator.trail().pop().expect("an event");
    assert_eq!(
        (&event["errorCode"], &event["requestParameters"]),
        (&json!("AccessDenied"), &Value::Null)
    );
    assert!(
        push(&simulator, MALLORY, &with("InstanceOSUser", "guest"))
            .1
            .is_ok()
    );
}

#[test]
fn callers_nobody_knows_are_refused() {
    let simulator = start();
    assert_eq!(
        push(&simulator, "AKIANOBODY", &input()).1,
        Err("UnrecognizedClientException".to_owned())
    );
    let target = [("X-Amz-Target", "AWSEC2InstanceConnectService.SendSSHPublicKey")];
    assert!(
        post(&simulator, &target, "{}")
            .1
            .contains("MissingAuthenticationTokenException")
    );
    assert!(simulator.trail().is_empty());
}

#[test]
fn trail_is_a_file_that_a_reader_finds_whole() {
    let simulator = start();
    let request = push(&simulator, ALICE, &input()).1.expect("a success")["RequestId"].clone();
    let file = std::fs::read(simulator.state_dir().join("cloudtrail.json")).expect("a file");
    let trail: Value = serde_json::from_slice(&file).expect("JSON");
    let event = &trail["Records"][0];
    assert_eq!(event["eventName"], "SendSSHPublicKey");
    assert_eq!(event["eventSource"], "ec2-instance-connect.amazonaws.com");
    assert_eq!(event["requestID"], request);
    assert_eq!(event["requestParameters"]["osUser"], "ec2-user");
    assert_eq!(event["requestParameters"]["instanceId"], ID);
}

#[test]
fn exceptions_come_on_request() {
    let simulator = start();
    let exception = |name: &str| Effect::Exception(name.to_owned());
    simulator.api_fault(Fault::on("SendSSHPublicKey", exception("ThrottlingException")).times(1));
    refused(&simulator, &input(), "ThrottlingException");
    assert_eq!(push(&simulator, ALICE, &input()).0, 200);
    simulator.api_fault(Fault::on("SendSSHPublicKey", exception("ServiceException")));
    assert_eq!(
        push(&simulator, ALICE, &input()),
        (500, Err("ServiceException".to_owned()))
    );
}

#[test]
fn control_interface_asks_for_its_header() {
    let simulator = start();
    let address = simulator.api_endpoint().replace("http://", "");
    let ask = |header: &str| {
        let mut stream = TcpStream::connect(&address).expect("somebody listens");
        write!(
            stream,
            "POST /_simulator/expire HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}Content-Length: 0\r\n\r\n"
        )
        .expect("it is taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    };
    assert!(ask("").starts_with("HTTP/1.1 403"));
    assert!(ask("X-Simulator: test\r\n").starts_with("HTTP/1.1 200"));
}

// --- the real clients ---

/// A client by name: from the tests' own virtual environment, else from PATH, else loudly none.
fn client(name: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("EIC_CACHE").map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/ec2-instance-connect"))
    });
    let own = cache.map(|cache| cache.join("aws-clients-1/bin").join(name));
    let works = |path: &PathBuf| {
        Command::new(path)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let found = own.into_iter().chain([PathBuf::from(name)]).find(works);
    if found.is_none() {
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}

/// Runs a client with nothing of this machine's AWS configuration.
fn run(program: &PathBuf, simulator: &Simulator, key_id: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", simulator.state_dir())
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_ENDPOINT_URL", simulator.api_endpoint())
        .env("AWS_ACCESS_KEY_ID", key_id)
        .env("AWS_SECRET_ACCESS_KEY", "nobody-checks")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_MAX_ATTEMPTS", "1")
        .output()
        .expect("the client runs")
}

fn aws_push(aws: &PathBuf, simulator: &Simulator, key_id: &str) -> Output {
    let key = simulator.state_dir().join("key.pub");
    std::fs::write(&key, format!("{KEY} me@here\n")).expect("a writable directory");
    let key = format!("file://{}", key.display());
    let arguments = [
        "ec2-instance-connect",
        "send-ssh-public-key",
        "--instance-id",
        ID,
        "--instance-os-user",
    ];
    run(
        aws,
        simulator,
        key_id,
        &[&arguments[..], &["ec2-user", "--ssh-public-key", &key]].concat(),
    )
}

#[test]
fn aws_command_line_pushes_a_key() {
    let Some(aws) = client("aws") else { return };
    let simulator = start();
    let output = aws_push(&aws, &simulator, ALICE);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["Success"], true);
    let document = String::from_utf8(simulator.document("ec2-user").expect("a key")).expect("text");
    assert!(document.contains(&format!("\n{KEY}\n")), "{document}");
}

#[test]
fn aws_command_line_understands_the_exceptions() {
    let Some(aws) = client("aws") else { return };
    let simulator = start();
    for (key_id, exception) in [
        (MALLORY, "AccessDeniedException"),
        ("AKIANOBODY", "UnrecognizedClientException"),
    ] {
        let output = aws_push(&aws, &simulator, key_id);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains(&format!("({exception})")),
            "{text}"
        );
    }
}

#[test]
fn aws_command_line_learns_who_it_is_and_what_there_is() {
    let Some(aws) = client("aws") else { return };
    let simulator = start();
    let json = |key_id: &str, arguments: &[&str]| {
        let output = run(&aws, &simulator, key_id, arguments);
        serde_json::from_slice::<Value>(&output.stdout)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let identity = json(BUILDER, &["sts", "get-caller-identity"]);
    assert_eq!(
        identity["Arn"],
        "arn:aws:sts::123456789012:assumed-role/Builder/nightly"
    );
    let described = json(ALICE, &["ec2", "describe-instances", "--instance-ids", ID]);
    let instance = &described["Reservations"][0]["Instances"][0];
    assert_eq!(
        instance["Placement"]["AvailabilityZone"], "us-east-1a",
        "{described}"
    );
    assert_eq!(instance["PublicIpAddress"], "127.0.0.1");
    let missing = json(
        ALICE,
        &[
            "ec2",
            "describe-instances",
            "--instance-ids",
            "i-00000000000000000",
        ],
    );
    assert!(
        missing
            .as_str()
            .is_some_and(|text| text.contains("InvalidInstanceID.NotFound")),
        "{missing}"
    );
    let stranger = json("AKIANOBODY", &["ec2", "describe-instances"]);
    assert!(
        stranger.as_str().is_some_and(|text| text.contains("AuthFailure")),
        "{stranger}"
    );
}

#[test]
fn mssh_finds_the_instance_and_pushes_its_own_key() {
    let Some(mssh) = client("mssh") else { return };
    let simulator = start();
    // Nobody listens on port 1: the login fails, the push before it does not.
    let arguments = [
        "-r",
        "us-east-1",
        "-o",
        "BatchMode=yes",
        "-p",
        "1",
        &format!("ec2-user@{ID}"),
        "true",
    ];
    let output = run(&mssh, &simulator, ALICE, &arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("127.0.0.1 port 1"), "{text}");
    let document = String::from_utf8(simulator.document("ec2-user").expect("a key")).expect("text");
    assert!(document.contains("\nssh-rsa AAAA"), "{document}");
}
