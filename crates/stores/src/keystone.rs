//! Logging in at OpenStack: Keystone's version 3, its version 2 where it is asked for, and Swift's own older way (version 1). Gives a token and the address of
//! the account's objects; the token is fetched anew when the store no longer accepts it.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::environment::Environment;
use crate::secret::Secret;
use crate::transport::{code_and_message, of_reqwest, words};
use crate::trouble::Trouble;

/// Who we are, and the token that we were given last.
pub(crate) struct Login {
    client: reqwest::Client,
    way: Way,
    token: Mutex<Secret>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

enum Way {
    /// The token was given to us and there is no other.
    Given,
    /// Keystone 3: where, what to say, and the region whose store we want.
    Three { url: String, body: Value, region: Option<String> },
    /// Keystone 2, which old stores still have: likewise.
    Two { url: String, body: Value, region: Option<String> },
    /// Version 1: where, who, the key.
    One { url: String, user: String, key: Secret },
}

/// What a login gives.
struct Session {
    token: Secret,
    storage: String,
}

impl Login {
    /// Logs in as the environment says (restic's and OpenStack's names), and gives the address of the account's objects.
    pub(crate) async fn new(environment: &Environment, client: reqwest::Client) -> Result<(Self, String), String> {
        if let (Some(storage), Some(token)) = (environment.get("OS_STORAGE_URL"), environment.get("OS_AUTH_TOKEN")) {
            return Ok((Self { client, way: Way::Given, token: Mutex::new(Secret::new(token)) }, storage));
        }
        let way = way(environment)?;
        let session = way.ask(&client).await?;
        let storage = environment.get("OS_STORAGE_URL").unwrap_or(session.storage);
        Ok((Self { client, way, token: Mutex::new(session.token) }, storage))
    }

    /// The token that holds now.
    pub(crate) async fn token(&self) -> Secret {
        self.token.lock().await.clone()
    }

    /// A token that is not this one any more. Of many who ask at once one logs in.
    pub(crate) async fn renewed(&self, old: &Secret) -> Result<Secret, String> {
        let mut token = self.token.lock().await;
        if *token == *old {
            *token = self.way.ask(&self.client).await?.token;
        }
        Ok(token.clone())
    }

    /// What must not be seen.
    pub(crate) fn secrets(environment: &Environment) -> Vec<Secret> {
        ["OS_PASSWORD", "OS_AUTH_TOKEN", "OS_APPLICATION_CREDENTIAL_SECRET", "ST_KEY"]
            .iter()
            .filter_map(|name| environment.get(name))
            .map(Secret::new)
            .collect()
    }
}

/// The way that the environment names.
fn way(environment: &Environment) -> Result<Way, String> {
    let get = |name: &str| environment.get(name);
    if let Some(url) = get("ST_AUTH") {
        let (Some(user), Some(key)) = (get("ST_USER"), get("ST_KEY")) else {
            return Err("ST_AUTH, ST_USER and ST_KEY go together".to_owned());
        };
        return Ok(Way::One { url, user, key: Secret::new(key) });
    }
    let Some(url) = get("OS_AUTH_URL") else {
        return Err("no credentials were found: set OS_AUTH_URL, OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME (or \
                    OS_APPLICATION_CREDENTIAL_ID and _SECRET, or ST_AUTH, ST_USER and ST_KEY, or OS_STORAGE_URL and \
                    OS_AUTH_TOKEN)"
            .to_owned());
    };
    if get("OS_IDENTITY_API_VERSION").is_some_and(|version| version.split('.').next() == Some("2")) {
        let (Some(user), Some(password)) = (get("OS_USERNAME"), get("OS_PASSWORD")) else {
            return Err("OS_USERNAME and OS_PASSWORD go together".to_owned());
        };
        let mut body = json!({"auth": {"passwordCredentials": {"username": user, "password": password}}});
        if let Some(tenant) = environment.first(&["OS_PROJECT_NAME", "OS_TENANT_NAME"]) {
            body["auth"]["tenantName"] = tenant.into();
        }
        let url = url.trim_end_matches('/');
        let url = if url.ends_with("/v2.0") { url.to_owned() } else { format!("{url}/v2.0") };
        return Ok(Way::Two { url: format!("{url}/tokens"), body, region: get("OS_REGION_NAME") });
    }
    let domain = |id: &str, name: &str| match environment.first(&[id, "OS_DOMAIN_ID"]) {
        Some(id) => json!({"id": id}),
        None => json!({"name": environment.first(&[name, "OS_DOMAIN_NAME"]).unwrap_or_else(|| "Default".to_owned())}),
    };
    let user = || match get("OS_USER_ID") {
        Some(id) => Ok(json!({"id": id})),
        None => match get("OS_USERNAME") {
            Some(name) => Ok(json!({"name": name, "domain": domain("OS_USER_DOMAIN_ID", "OS_USER_DOMAIN_NAME")})),
            None => Err("who are we? Set OS_USERNAME or OS_USER_ID".to_owned()),
        },
    };
    let body = if let Some(secret) = get("OS_APPLICATION_CREDENTIAL_SECRET") {
        let credential = match (get("OS_APPLICATION_CREDENTIAL_ID"), get("OS_APPLICATION_CREDENTIAL_NAME")) {
            (Some(id), _) => json!({"id": id, "secret": secret}),
            (None, Some(name)) => json!({"name": name, "secret": secret, "user": user()?}),
            (None, None) => return Err("which application credential? Set OS_APPLICATION_CREDENTIAL_ID".to_owned()),
        };
        json!({"auth": {"identity": {"methods": ["application_credential"], "application_credential": credential}}})
    } else {
        let password = get("OS_PASSWORD").ok_or("OS_PASSWORD is not set")?;
        let mut user = user()?;
        user["password"] = password.into();
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        let project = match environment.first(&["OS_PROJECT_ID", "OS_TENANT_ID"]) {
            Some(id) => Some(json!({"id": id})),
            None => environment
                .first(&["OS_PROJECT_NAME", "OS_TENANT_NAME"])
                .map(|name| json!({"name": name, "domain": domain("OS_PROJECT_DOMAIN_ID", "OS_PROJECT_DOMAIN_NAME")})),
        };
        match project {
            Some(project) => json!({"auth": {"identity": identity, "scope": {"project": project}}}),
            None => json!({"auth": {"identity": identity}}),
        }
    };
    let url = url.trim_end_matches('/');
    let url = if url.ends_with("/v3") { url.to_owned() } else { format!("{}/v3", url.trim_end_matches("/v2.0")) };
    Ok(Way::Three { url: format!("{url}/auth/tokens"), body, region: get("OS_REGION_NAME") })
}

impl Way {
    async fn ask(&self, client: &reqwest::Client) -> Result<Session, String> {
        let request = match self {
            Self::Given => return Err("the token in OS_AUTH_TOKEN has expired: fetch a new one".to_owned()),
            Self::Two { url, body, .. } | Self::Three { url, body, .. } => client
                .post(url)
                .header(http::header::CONTENT_TYPE, "application/json")
                .header(http::header::ACCEPT, "application/json")
                .body(body.to_string()),
            Self::One { url, user, key } => {
                client.get(url).header("X-Auth-User", user).header("X-Auth-Key", key.expose())
            }
        };
        let failed = |error: reqwest::Error| {
            let error = error.without_url();
            format!("cannot log in: {} ({})", of_reqwest(&error).row().advice, words(&error))
        };
        let response = request.timeout(Duration::from_secs(30)).send().await.map_err(failed)?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(failed)?;
        if !status.is_success() {
            let (_, message) = code_and_message(&headers, &body);
            let advice = Trouble::of_answer(status.as_u16(), "").row().advice;
            return Err(format!("cannot log in: {advice} (it answers {} {message})", status.as_u16()));
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let no_store = |region: &Option<String>| match region {
            Some(region) => format!("the login's answer names no object store in the region {region}"),
            None => "the login's answer names no object store: is OS_PROJECT_NAME set?".to_owned(),
        };
        match self {
            Self::Two { region, .. } => {
                let value: Value = serde_json::from_slice(&body).map_err(|_| "the login's answer is not JSON")?;
                let token = value["access"]["token"]["id"].as_str().ok_or("the login's answer holds no token")?;
                let storage = storage_of_two(&value, region.as_deref()).ok_or_else(|| no_store(region))?;
                Ok(Session { token: Secret::new(token), storage })
            }
            Self::Three { region, .. } => {
                let token = header("x-subject-token").ok_or("the login's answer holds no token")?;
                let value: Value = serde_json::from_slice(&body).map_err(|_| "the login's answer is not JSON")?;
                let storage = storage(&value, region.as_deref()).ok_or_else(|| no_store(region))?;
                Ok(Session { token: Secret::new(token), storage })
            }
            _ => Ok(Session {
                token: Secret::new(header("x-auth-token").ok_or("the login's answer holds no token")?),
                storage: header("x-storage-url").ok_or("the login's answer names no object store")?,
            }),
        }
    }
}

/// The public address of the object store in Keystone's catalog.
fn storage(answer: &Value, region: Option<&str>) -> Option<String> {
    let catalog = answer["token"]["catalog"].as_array()?;
    let endpoints = catalog.iter().find(|entry| entry["type"] == "object-store")?["endpoints"].as_array()?;
    let fits = |endpoint: &&Value| {
        endpoint["interface"] == "public"
            && region.is_none_or(|region| endpoint["region"] == region || endpoint["region_id"] == region)
    };
    endpoints.iter().find(fits)?["url"].as_str().map(str::to_owned)
}

/// The same in the catalog of version 2.
fn storage_of_two(answer: &Value, region: Option<&str>) -> Option<String> {
    let catalog = answer["access"]["serviceCatalog"].as_array()?;
    let endpoints = catalog.iter().find(|entry| entry["type"] == "object-store")?["endpoints"].as_array()?;
    let fits = |endpoint: &&Value| region.is_none_or(|region| endpoint["region"] == region);
    endpoints.iter().find(fits)?["publicURL"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_store_of_the_region_is_found() {
        let answer = json!({"token": {"catalog": [
            {"type": "compute", "endpoints": [{"interface": "public", "region": "one", "url": "no"}]},
            {"type": "object-store", "endpoints": [
                {"interface": "admin", "region": "one", "url": "no"},
                {"interface": "public", "region": "one", "url": "https://one/v1/AUTH_x"},
                {"interface": "public", "region": "two", "url": "https://two/v1/AUTH_x"},
            ]},
        ]}});
        assert_eq!(storage(&answer, None).as_deref(), Some("https://one/v1/AUTH_x"));
        assert_eq!(storage(&answer, Some("two")).as_deref(), Some("https://two/v1/AUTH_x"));
        assert_eq!(storage(&answer, Some("three")), None);
    }

    #[test]
    fn what_the_environment_says_becomes_what_keystone_wants() {
        let environment = Environment::fixed([
            ("OS_AUTH_URL", "https://keystone/"),
            ("OS_USERNAME", "me"),
            ("OS_PASSWORD", "hush"),
            ("OS_PROJECT_NAME", "work"),
            ("OS_USER_DOMAIN_NAME", "people"),
        ]);
        let Ok(Way::Three { url, body, region }) = way(&environment) else { panic!() };
        assert_eq!((url.as_str(), region), ("https://keystone/v3/auth/tokens", None));
        let user = &body["auth"]["identity"]["password"]["user"];
        assert_eq!(*user, json!({"name": "me", "domain": {"name": "people"}, "password": "hush"}));
        assert_eq!(body["auth"]["scope"]["project"], json!({"name": "work", "domain": {"name": "Default"}}));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (variables, part) in [
            (vec![], "OS_AUTH_URL"),
            (vec![("OS_AUTH_URL", "https://k")], "OS_PASSWORD"),
            (vec![("OS_AUTH_URL", "https://k"), ("OS_PASSWORD", "x")], "OS_USERNAME"),
            (vec![("ST_AUTH", "https://k")], "ST_KEY"),
        ] {
            let error = way(&Environment::fixed(variables)).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
    }
}
