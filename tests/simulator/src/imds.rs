//! The instance metadata service, version 2, with the rules of the EC2 user guide ("Use the Instance Metadata
//! Service to access instance metadata"). Where the real one's behaviour is not established, the code says so.

use crate::clock;
use crate::http::{Answer, Asked};
use crate::state::{Request, Running, Shared, lock, random};
use crate::world::Instance;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// Where a session begins.
pub const TOKEN: &str = "/latest/api/token";
/// Live keys, followed by user name and a slash.
pub const ACTIVE_KEYS: &str = "/latest/meta-data/managed-ssh-keys/active-keys/";
/// The signer's chain.
pub const SIGNER_CERT: &str = "/latest/meta-data/managed-ssh-keys/signer-cert/";
/// The staples' names, and with a name appended a staple.
pub const SIGNER_OCSP: &str = "/latest/meta-data/managed-ssh-keys/signer-ocsp/";
/// The instance id.
pub const INSTANCE_ID: &str = "/latest/meta-data/instance-id/";
/// The region.
pub const REGION: &str = "/latest/meta-data/placement/region";
/// The Availability Zone.
pub const ZONE: &str = "/latest/meta-data/placement/availability-zone/";
/// The DNS suffix.
pub const DOMAIN: &str = "/latest/meta-data/services/domain/";
/// The partition.
pub const PARTITION: &str = "/latest/meta-data/services/partition";
/// The identity document.
pub const IDENTITY: &str = "/latest/dynamic/instance-identity/document";

const TTL_HEADER: &str = "X-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "X-aws-ec2-metadata-token";
/// Six hours: the longest that a session may last.
const LONGEST_TTL: u64 = 21_600;
/// Some of the dated versions that the service answers to.
const VERSIONS: [&str; 6] = [
    "1.0",
    "2009-04-04",
    "2016-09-02",
    "2019-10-01",
    "2021-07-15",
    "2024-04-11",
];

/// Answers one request to instance number `number` and writes it into the log.
pub(crate) fn answer(shared: &Shared, number: usize, asked: Asked) -> Answer {
    let Some(instance) = shared.instances.get(number) else {
        return page(404);
    };
    let mut instance = lock(instance);
    let effects = instance.faults.strike(&asked.method, &asked.path);
    let mut answer = honest(&mut instance, &asked).header("Server", "EC2ws");
    lock(&shared.log).push(Request {
        instance: instance.facts.id.clone(),
        method: asked.method,
        path: asked.path,
        status: answer.status,
        connection: asked.connection,
        fault: !effects.is_empty(),
        time: SystemTime::now(),
    });
    answer.effects = effects;
    answer
}

fn honest(instance: &mut Running, asked: &Asked) -> Answer {
    if !instance.facts.imds_enabled {
        return page(403);
    }
    match asked.method.as_str() {
        "PUT" => token(instance, asked),
        "GET" | "HEAD" => match session(instance, asked) {
            Err(status) => page(status),
            Ok(ttl) => {
                let found = document(instance, &asked.path);
                let answer = found.map_or_else(|| page(404), |body| text(&asked.path, body));
                match ttl {
                    Some(ttl) => answer.header(TTL_HEADER, &ttl.to_string()),
                    None => answer,
                }
            }
        },
        // what the service says to other methods is not established
        _ => page(405),
    }
}

/// `PUT /latest/api/token`.
fn token(instance: &mut Running, asked: &Asked) -> Answer {
    // Refused so that an open reverse proxy on the instance cannot fetch a token for somebody outside.
    if asked.headers.contains_key("x-forwarded-for") {
        return page(403);
    }
    if asked.path != TOKEN {
        return page(403);
    }
    let ttl = asked.header(TTL_HEADER).and_then(|v| v.parse::<u64>().ok());
    let Some(ttl) = ttl.filter(|ttl| (1..=LONGEST_TTL).contains(ttl)) else {
        return page(400);
    };
    let token = STANDARD.encode(random::<40>());
    let now = Instant::now();
    instance.tokens.retain(|_, until| *until > now);
    instance
        .tokens
        .insert(token.clone(), now + Duration::from_secs(ttl));
    Answer::new(200, "text/plain", token).header(TTL_HEADER, &ttl.to_string())
}

/// The seconds that the presented token still lives, or the status that refuses it. `None` is a request
/// without a token where none is needed.
fn session(instance: &Running, asked: &Asked) -> Result<Option<u64>, u16> {
    match asked.header(TOKEN_HEADER) {
        None if instance.facts.token_required => Err(401),
        None => Ok(None),
        Some(token) => {
            let until = instance.tokens.get(token).ok_or(401u16)?;
            let left = until
                .checked_duration_since(Instant::now())
                .filter(|d| !d.is_zero())
                .ok_or(401u16)?;
            Ok(Some(left.as_secs()))
        }
    }
}

/// What a path says. Both forms of a path, with and without the slash at its end, are the same here; whether
/// they are at the real service is not established.
fn document(instance: &mut Running, path: &str) -> Option<Vec<u8>> {
    let path = normal(path)?;
    if let Some(replaced) = instance.replaced.get(&path) {
        return Some(replaced.clone());
    }
    if path.is_empty() {
        let mut versions: Vec<&str> = VERSIONS.to_vec();
        versions.push("latest");
        return Some(versions.join("\n").into_bytes());
    }
    if let Some(user) = path.strip_prefix("latest/meta-data/managed-ssh-keys/active-keys/") {
        return instance.document(user);
    }
    let tree = tree(instance);
    tree.get(&path).cloned().or_else(|| listing(&tree, &path))
}

/// The path without slashes at its ends and with `latest` for a dated version; `None` for an unknown version.
pub(crate) fn normal(path: &str) -> Option<String> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let (version, rest) = path.split_once('/').unwrap_or((path, ""));
    if path.is_empty() {
        return Some(String::new());
    }
    if version != "latest" && !VERSIONS.contains(&version) {
        return None;
    }
    Some(if rest.is_empty() {
        "latest".to_owned()
    } else {
        format!("latest/{rest}")
    })
}

/// All documents but the users' keys, by normal path.
fn tree(instance: &mut Running) -> BTreeMap<String, Vec<u8>> {
    let users = instance.users();
    let facts = &instance.facts;
    let mut tree = BTreeMap::new();
    let mut put = |path: &str, text: &str| {
        tree.insert(format!("latest/{path}"), text.as_bytes().to_vec());
    };
    put("meta-data/ami-id", "ami-0123456789abcdef0");
    put("meta-data/ami-launch-index", "0");
    put("meta-data/hostname", &private_name(facts));
    put("meta-data/instance-id", &facts.id);
    put("meta-data/instance-type", "t3.micro");
    put("meta-data/local-hostname", &private_name(facts));
    put("meta-data/local-ipv4", &facts.private_ip.to_string());
    put("meta-data/mac", "0e:00:00:00:00:01");
    put("meta-data/placement/availability-zone", &facts.zone);
    put("meta-data/placement/region", &facts.region);
    put("meta-data/public-ipv4", &facts.public_ip.to_string());
    put("meta-data/reservation-id", "r-0123456789abcdef0");
    put("meta-data/security-groups", "default");
    put("meta-data/services/domain", &facts.domain);
    put("meta-data/services/partition", &facts.partition);
    put("meta-data/managed-ssh-keys/signer-cert", &instance.signer.chain);
    put("dynamic/instance-identity/document", &identity(facts));
    for (name, der) in &instance.signer.staples {
        put(
            &format!("meta-data/managed-ssh-keys/signer-ocsp/{name}"),
            &STANDARD.encode(der),
        );
    }
    for user in users {
        put(&format!("meta-data/managed-ssh-keys/active-keys/{user}/"), "");
    }
    tree
}

/// A directory as the service lists it: names, line by line, with a slash behind those that hold more. An
/// empty staple directory still lists, as nothing.
fn listing(tree: &BTreeMap<String, Vec<u8>>, path: &str) -> Option<Vec<u8>> {
    let prefix = format!("{path}/");
    let mut names: Vec<String> = Vec::new();
    for rest in tree.keys().filter_map(|key| key.strip_prefix(&prefix)) {
        let name = rest
            .split_once('/')
            .map_or_else(|| rest.to_owned(), |(name, _)| format!("{name}/"));
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    if names.is_empty() && path != "latest/meta-data/managed-ssh-keys/signer-ocsp" {
        return None;
    }
    Some(names.join("\n").into_bytes())
}

fn private_name(facts: &Instance) -> String {
    format!(
        "ip-{}.ec2.internal",
        facts.private_ip.to_string().replace('.', "-")
    )
}

fn identity(facts: &Instance) -> String {
    let document = serde_json::json!({
        "accountId": facts.account,
        "architecture": "x86_64",
        "availabilityZone": facts.zone,
        "billingProducts": null,
        "devpayProductCodes": null,
        "imageId": "ami-0123456789abcdef0",
        "instanceId": facts.id,
        "instanceType": "t3.micro",
        "kernelId": null,
        "marketplaceProductCodes": null,
        "pendingTime": clock::iso8601(clock::now() - clock::DAY),
        "privateIp": facts.private_ip,
        "ramdiskId": null,
        "region": facts.region,
        "version": "2017-09-30",
    });
    format!("{document:#}")
}

fn text(path: &str, body: Vec<u8>) -> Answer {
    let kind = if path.ends_with(".json") {
        "application/json"
    } else {
        "text/plain"
    };
    Answer::new(200, kind, body).header("Accept-Ranges", "none")
}

fn page(status: u16) -> Answer {
    Answer::new(status, "text/html", error_page(status))
}

/// The page that comes with an error status.
pub(crate) fn error_page(status: u16) -> String {
    let reason = hyper::StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or("Error");
    format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" \
         xml:lang=\"en\" lang=\"en\">\n <head>\n  <title>{status} - {reason}</title>\n </head>\n <body>\n  \
         <h1>{status} - {reason}</h1>\n </body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dated_versions_and_slashes_mean_the_same_document() {
        assert_eq!(
            normal("/latest/meta-data/instance-id/"),
            normal("/2021-07-15/meta-data/instance-id")
        );
        assert_eq!(normal("/1999-01-01/meta-data/"), None);
        assert_eq!(normal("/"), Some(String::new()));
    }

    #[test]
    fn user_names_are_not_decoded() {
        assert_eq!(normal("/latest/a%40b/"), Some("latest/a%40b".to_owned()));
    }
}
