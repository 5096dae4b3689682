"""The programs whose output is known, with their lines as their sources and pasted output show them."""

from __future__ import annotations

from b24tunnel.tunnel.preset import OPTIONS, Failure, Invocation, Note, Preset

# Seconds before the next try where a service limits how often one may come.
_LIMITED = 120.0
_TRY_LATER = "try again in a while, or take another tunnel"

_TUNA = Preset(
    name="tuna",
    invocations=(
        Invocation(
            "tuna",
            ("http", "{port}", OPTIONS),
            named=("http", "{port}", "--subdomain={label}", OPTIONS),
            custom=("http", "{port}", "--domain={domain}", OPTIONS),
        ),
    ),
    suffix=".tuna.am",
    # A line about a new version, with an address in it, may come first.
    patterns=(r"\bForwarding (https?://\S+) ->", r'"msg":\s*"Forwarding",\s*"url":\s*"(https?://[^"\s]+)"'),
    failures=(
        Failure(
            r"Unknown token|AuthorizationRequired|must be specified",
            "log in with 'tuna login', or put the token into the environment variable TUNA_TOKEN",
            permanent=True,
        ),
    ),
    forbidden={"--token": "put the token into the environment variable TUNA_TOKEN"},
    setup="install tuna from https://tuna.am and log in with 'tuna login'",
    automatic=True,
)

_CLOUDPUB = Preset(
    name="cloudpub",
    # Without a configuration file of our own: the token is in the user's, and could get into another one only
    # by way of the arguments, which everybody on the machine can read.
    invocations=(Invocation("clo", ("publish", "http", "{port}", OPTIONS)),),
    # Failures are printed to the same stream, and with an arrow, too; the language is the build's.
    patterns=(r"(?:Сервис опубликован|Service published): .* -> (https?://\S+)",),
    failures=(
        Failure(
            r"(?i)токен авторизации|authorization token",
            "log in with 'clo login'",
            permanent=True,
        ),
        Failure(r"Ошибка публикации:|Service error:", _TRY_LATER, ends=True),
    ),
    notes=(Note(r"Ошибка сети|Network error", "CloudPub has trouble with the network and goes on trying."),),
    setup="install clo from https://cloudpub.ru and log in with 'clo login'",
    automatic=True,
)

_XTUNNEL = Preset(
    name="xtunnel",
    invocations=(Invocation("xtunnel", ("http", "{port}", OPTIONS)),),
    patterns=(r"Public address:\s*(https?://\S+)",),
    forbidden={"--license": "register the key once with 'xtunnel register'"},
    setup="install xtunnel from https://xtunnel.ru and register your key once with 'xtunnel register'",
    automatic=True,
)

_ZROK_SHARE = ("share", "public", "localhost:{port}", "--headless")
_ZROK = Preset(
    name="zrok",
    invocations=(
        Invocation(
            "zrok2",
            (*_ZROK_SHARE, "--force-local", OPTIONS),
            named=(*_ZROK_SHARE, "--force-local", "-n", "public:{label}", OPTIONS),
        ),
        Invocation("zrok", (*_ZROK_SHARE, OPTIONS)),
    ),
    # In the same line or below it: a host of zrok's, or of the user's own zrok.
    after=r"following endpoints:",
    patterns=(r"^\s*(https?://\S+)\s*$", r"^\s*([a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+(?::\d+)?)\s*$"),
    json_key="msg",
    failures=(
        Failure(
            r"did you 'zrok2? enable'|unable to load environment|\[401\]",
            "enable this machine once with 'zrok2 enable' (older: 'zrok enable') and your account's token",
            permanent=True,
        ),
        Failure(r"unable to create share", _TRY_LATER),
    ),
    setup="install zrok from https://zrok.io and enable this machine once with 'zrok2 enable' and your token",
    automatic=True,
)

_BORE = Preset(
    name="bore",
    invocations=(
        Invocation(
            "bore",
            ("local", "{port}", "--to", "bore.pub", OPTIONS),
            named=("local", "{port}", "--to", "{domain}", OPTIONS),
            custom=("local", "{port}", "--to", "{domain}", OPTIONS),
        ),
    ),
    scheme="http",
    patterns=(r"\blistening at (\S+:\d+)",),
    failures=(
        Failure(
            r"^Error: .*requires authentication",
            "put the server's secret into the environment variable BORE_SECRET",
            permanent=True,
        ),
        Failure(r"^Error: .*not in allowed range", "ask for another port", permanent=True),
        Failure(r"^Error: .*port already in use", "ask for another port, or wait until the old one is let go"),
        Failure(r"^Error: ", _TRY_LATER),
    ),
    environment={"NO_COLOR": "1"},
    forbidden={"--secret": "put the secret into the environment variable BORE_SECRET"},
    setup="install bore from https://github.com/ekzhang/bore",
    # No https, which a portal's handler should have.
    automatic=False,
)

_LOCALTUNNEL = Preset(
    name="localtunnel",
    # Without --local-host: with it the client decodes a request's beginning as text, which breaks other bytes.
    invocations=(
        Invocation(
            "lt",
            ("--port", "{port}", OPTIONS),
            named=("--port", "{port}", "--subdomain", "{label}", OPTIONS),
        ),
    ),
    suffix=".loca.lt",
    patterns=(r"\byour url is: (https?://\S+)",),
    failures=(
        Failure(r"\byour url is: undefined", _TRY_LATER),
        Failure(
            r"connection refused: ",
            "let outgoing connections to high ports through your firewall, or take another tunnel",
        ),
    ),
    # It takes each variable that is named like one of its options as that option.
    removed=(
        *("HOST", "PORT", "SUBDOMAIN", "OPEN", "LOCAL_HOST", "LOCAL_HTTPS", "LOCAL_CERT", "LOCAL_KEY"),
        *("LOCAL_CA", "ALLOW_INVALID_CERT", "PRINT_REQUESTS"),
    ),
    silence="its server cannot be reached, which it does not say",
    setup="install it with 'npm install -g localtunnel'",
    automatic=True,
)

_TUNNELMOLE = Preset(
    name="tunnelmole",
    invocations=(
        Invocation("tmole", ("{port}", OPTIONS), named=("{port}", "as", "{host}", OPTIONS)),
        Invocation("tunnelmole", ("{port}", OPTIONS), named=("{port}", "as", "{host}", OPTIONS)),
    ),
    suffix=".tunnelmole.net",
    # The twin with http, and links for sharing, come after it.
    patterns=(r"^\s*(https://[a-z0-9-]+\.tunnelmole\.net)\s",),
    failures=(
        Failure(r"is already taken", "ask for another name", permanent=True),
        Failure(r"anything running on port", "try again: the receiver has to be there before it"),
    ),
    notes=(
        Note(
            r"Falling back to free mode",
            "Tunnelmole gives a random name: the key is wrong, or the account has no subscription.",
        ),
    ),
    removed=("TUNNELMOLE_QUIET_MODE",),  # it hides the address
    setup="install it with 'npm install -g tunnelmole'",
    automatic=True,
)

_TAILSCALE = Preset(
    name="tailscale",
    invocations=(Invocation("tailscale", ("funnel", "--yes", OPTIONS, "{port}")),),
    # The same address under another heading is reachable within the user's own network only.
    after=r"Available on the internet:",
    until=r"Available within your tailnet:",
    patterns=(r"(https://[a-z0-9-]+\.[a-z0-9-]+\.ts\.net(?::\d+)?)(?![\w.-])",),
    failures=(
        Failure(
            r"Funnel not available|login\.tailscale\.com|not allowed for funnel",
            "enable HTTPS and Funnel for this machine in Tailscale's admin console, and ask for an allowed port",
            permanent=True,
        ),
        Failure(r"backend error", "log in with 'tailscale up'", permanent=True),
    ),
    forbidden={
        "--bg": "the machine would stay public after the end",
        "-bg": "the machine would stay public after the end",
    },
    setup="install Tailscale from https://tailscale.com, log in with 'tailscale up', and enable Funnel",
    # It would publish a machine of the user's own network, unasked.
    automatic=False,
)

_DEVTUNNEL = Preset(
    name="devtunnel",
    invocations=(
        Invocation(
            "devtunnel",
            ("host", "-p", "{port}", "--allow-anonymous", OPTIONS),
            # A tunnel that was made by hand, with its port and its access; its address does not hold its name.
            custom=("host", "{domain}", OPTIONS),
            named=("host", "{domain}", OPTIONS),
        ),
    ),
    # Not the address with the port behind it, nor the one for inspecting.
    patterns=(r"Connect via browser:.*?(https://[a-z0-9]+-{port}\.[a-z0-9]+\.devtunnels\.ms)(?![\w.-])",),
    failures=(
        Failure(
            r"access scope|Login (?:required|token expired)",
            "log in with 'devtunnel user login' (with -g for GitHub)",
            permanent=True,
        ),
        Failure(r"status code '429'", "there were too many tries: wait some minutes", pause=_LIMITED),
        Failure(r"Tunnel service error", _TRY_LATER),
    ),
    compared=False,
    seconds=60.0,
    setup="install devtunnel from Microsoft's page on dev tunnels and log in with 'devtunnel user login'",
    automatic=True,
)

_FRP = Preset(
    name="frp",
    # All of it is in the user's configuration, with the token, which does not belong into arguments.
    invocations=(Invocation("frpc", (OPTIONS,)),),
    ready=r"start proxy success",
    failures=(
        Failure(
            r"login to the server failed: .*token",
            "give auth.token the server's value in your configuration",
            permanent=True,
        ),
        Failure(r"login to the server failed|connect to server error", "look whether your frps is reachable"),
        Failure(
            r"start error:",
            "another client holds the name, or the server does not know yet that this one ended: try again",
        ),
    ),
    forbidden={
        "-t": "put the token into your configuration, as auth.token",
        "--token": "put the token into your configuration, as auth.token",
    },
    setup="install frpc from https://github.com/fatedier/frp",
    automatic=False,
)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        *(_TUNA, _CLOUDPUB, _XTUNNEL, _ZROK, _DEVTUNNEL, _TUNNELMOLE, _LOCALTUNNEL),
        *(_BORE, _TAILSCALE, _FRP),
    )
}
