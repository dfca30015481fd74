//! CloudTrail: each push, allowed or denied, becomes an event in a `{"Records":[…]}` file.

use crate::clock;
use crate::principals::{Kind, Principal};
use crate::state::uuid;
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;

/// A push as CloudTrail sees it.
pub(crate) struct Push<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) region: &'a str,
    pub(crate) account: &'a str,
    pub(crate) instance: &'a str,
    pub(crate) user: &'a str,
    pub(crate) key: &'a str,
    pub(crate) source: &'a str,
    pub(crate) agent: &'a str,
    pub(crate) request_id: &'a str,
    /// Why it was denied, if it was.
    pub(crate) denied: Option<&'a str>,
}

/// The events and the file that holds them.
pub(crate) struct Trail {
    path: PathBuf,
    records: Vec<Value>,
}

impl Trail {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self {
            path,
            records: Vec::new(),
        }
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        self.records.clone()
    }

    /// Writes the file in place of the old one, so that a reader never sees half of it.
    pub(crate) fn append(&mut self, push: &Push<'_>) -> io::Result<()> {
        self.records.push(event(push));
        let draft = self.path.with_extension("json.new");
        std::fs::write(&draft, format!("{:#}\n", json!({ "Records": self.records })))?;
        std::fs::rename(draft, &self.path)
    }
}

fn event(push: &Push<'_>) -> Value {
    let mut event = json!({
        "eventVersion": "1.08",
        "userIdentity": identity(push.principal),
        "eventTime": clock::iso8601(clock::now()),
        "eventSource": "ec2-instance-connect.amazonaws.com",
        "eventName": "SendSSHPublicKey",
        "awsRegion": push.region,
        "sourceIPAddress": push.source,
        "userAgent": push.agent,
        "requestParameters": {
            "instanceId": push.instance,
            "osUser": push.user,
            "SSHKey": { "publicKey": push.key },
        },
        "responseElements": null,
        "requestID": push.request_id,
        "eventID": uuid(),
        "readOnly": false,
        "eventType": "AwsApiCall",
        "managementEvent": true,
        "recipientAccountId": push.account,
        "eventCategory": "Management",
    });
    if let (Some(why), Some(fields)) = (push.denied, event.as_object_mut()) {
        fields.insert("errorCode".to_owned(), json!("AccessDenied"));
        fields.insert("errorMessage".to_owned(), json!(why));
        fields.insert("requestParameters".to_owned(), Value::Null);
    }
    event
}

fn identity(principal: &Principal) -> Value {
    let base = |kind: &str| {
        json!({
            "type": kind,
            "principalId": principal.unique_id(),
            "arn": principal.arn,
            "accountId": principal.account(),
            "accessKeyId": principal.access_key_id,
        })
    };
    let with = |mut value: Value, name: &str, more: Value| {
        value[name] = more;
        value
    };
    match principal.kind() {
        Kind::User(name) => with(base("IAMUser"), "userName", json!(name)),
        Kind::AssumedRole { role, .. } => {
            let issuer = json!({
                "type": "Role",
                "principalId": principal.unique_id().split(':').next(),
                "arn": format!("arn:aws:iam::{}:role/{role}", principal.account()),
                "accountId": principal.account(),
                "userName": role,
            });
            let attributes =
                json!({ "creationDate": clock::iso8601(clock::now()), "mfaAuthenticated": "false" });
            with(
                base("AssumedRole"),
                "sessionContext",
                json!({ "sessionIssuer": issuer, "attributes": attributes }),
            )
        }
        Kind::Federated(_) => base("FederatedUser"),
        Kind::Root => base("Root"),
    }
}
