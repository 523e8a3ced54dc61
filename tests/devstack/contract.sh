# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034  # variables of the plugin's
#
# What DevStack promises to plugins, as far as ours uses it, written after its manual ("Plugins"): so that the phases
# can be run where DevStack's own library is not at hand.

declare -A GITREPO GITDIR

function die {
    echo "[ERROR] ${*:2}" >&2
    exit 1
}

function warn {
    echo "[WARNING] ${*:2}" >&2
}

function echo_summary {
    echo "$@"
}

# trueorfalse DEFAULT NAME
function trueorfalse {
    case ${!2} in
        1 | [yY]* | [tT]*) echo True ;;
        0 | [nN]* | [fF]*) echo False ;;
        *) echo "$1" ;;
    esac
}

function enable_plugin {
    GITREPO[$1]=$2
    GITDIR[$1]=$DEST/$1
}

function define_plugin { :; }

function is_service_enabled {
    local service

    for service; do
        if [[ ,$ENABLED_SERVICES, == *,$service,* ]]; then
            return 0
        fi
    done
    return 1
}

function enable_service {
    if [[ ,$DISABLED_SERVICES, == *,$1,* ]]; then
        warn $LINENO "Attempt to enable_service $1 when it has been disabled"
    elif ! is_service_enabled "$1"; then
        ENABLED_SERVICES+=,$1
    fi
}

# Print FILE with OPTION of SECTION set to VALUE; without VALUE, without OPTION.
# ini_with FILE SECTION OPTION [VALUE]
function ini_with {
    section=[$2] option=$3 value=${4-} remove=$((4 - $#)) awk '
        function add() { if (within && !done && !ENVIRON["remove"]) print ENVIRON["option"] " = " ENVIRON["value"]; done = 1 }
        /^\[/ { if (within) add(); within = ($0 == ENVIRON["section"]); seen += within; print; next }
        within && $1 == ENVIRON["option"] { add(); next }
        { print }
        END {
            if (within) add()
            if (!seen && !ENVIRON["remove"]) { print "\n" ENVIRON["section"]; within = 1; add() }
        }' "$1"
}

# iniset FILE SECTION OPTION VALUE
function iniset {
    local made

    touch "$1"
    made=$(ini_with "$@")
    printf '%s\n' "$made" >"$1"
}

# inidelete FILE SECTION OPTION
function inidelete {
    iniset "$1" "$2" "$3"
}

# iniget FILE SECTION OPTION
function iniget {
    awk -v section="[$2]" -v option="$3" \
        '/^\[/ { within = ($0 == section) } within && $1 == option { sub(/^[^=]*= */, ""); print }' "$1"
}

# merge_config_file LOCAL_CONF GROUP \$VARIABLE
function merge_config_file {
    local file section option value

    file=$(eval echo "$3")
    if [[ -r $1 ]]; then
        awk -v wanted="[[$2|$3]]" '
            /^\[\[/ { within = ($0 == wanted); next }
            within && /^\[/ { section = substr($0, 2, length($0) - 2); next }
            within && /=/ { print section, $0 }' "$1" |
            while read -r section option _ value; do
                iniset "$file" "$section" "$option" "$value"
            done
    fi
}

function get_python_exec_prefix {
    echo /usr/local/bin
}

function setup_develop {
    pip_install -e "$1${2:+[$2]}"
}

# run_process SERVICE COMMAND [GROUP] [USER]
function run_process {
    local unit=devstack@$1.service

    if is_service_enabled "$1"; then
        iniset "$SYSTEMD_DIR/$unit" Service ExecStart "$2"
        iniset "$SYSTEMD_DIR/$unit" Service User "${4:-$STACK_USER}"
        $SYSTEMCTL enable "$unit"
        $SYSTEMCTL start "$unit"
    fi
}

function stop_process {
    if is_service_enabled "$1" && $SYSTEMCTL is-enabled "devstack@$1.service"; then
        $SYSTEMCTL stop "devstack@$1.service"
        $SYSTEMCTL disable "devstack@$1.service"
    fi
}

# run_phase override_defaults | source | MODE [PHASE]
function run_phase {
    local plugin=${GITDIR[fisk]}/devstack

    # shellcheck source=/dev/null
    case $1 in
        override_defaults) source "$plugin/override-defaults" ;;
        source) source "$plugin/settings" ;;
        *) source "$plugin/plugin.sh" "$@" ;;
    esac
}

# What lib/cinder, lib/glance and lib/nova set and do.

function source_libraries {
    CINDER_ENABLED_BACKENDS=${CINDER_ENABLED_BACKENDS:-lvm:lvmdriver-1}
    CINDER_BACKUP_DRIVER=${CINDER_BACKUP_DRIVER:-swift}
    CINDER_IMG_CACHE_ENABLED=${CINDER_IMG_CACHE_ENABLED:-True}
}

function configure_reserved_stores {
    iniset "$GLANCE_API_CONF" os_glance_staging_store filesystem_store_datadir "$DATA_DIR/glance/staging/"
    iniset "$GLANCE_API_CONF" os_glance_tasks_store filesystem_store_datadir "$DATA_DIR/glance/tasks/"
}

function each_cinder_backend {
    local backend

    for backend in ${CINDER_ENABLED_BACKENDS//,/ }; do
        if type "$1_${backend%%:*}" >/dev/null 2>&1; then
            "$1_${backend%%:*}" "${backend##*:}"
        fi
    done
}

function configure_cinder {
    local names

    rm -f "$CINDER_CONF"
    touch "$CINDER_CONF"
    each_cinder_backend configure_cinder_backend
    names=$(tr , "\n" <<<"$CINDER_ENABLED_BACKENDS" | cut -d: -f2 | paste -sd,)
    iniset "$CINDER_CONF" DEFAULT enabled_backends "$names"
    iniset "$CINDER_CONF" DEFAULT default_volume_type "${names%%,*}"
    if is_service_enabled c-bak && type "configure_cinder_backup_$CINDER_BACKUP_DRIVER" >/dev/null 2>&1; then
        "configure_cinder_backup_$CINDER_BACKUP_DRIVER"
    fi
}

function cleanup_cinder {
    each_cinder_backend cleanup_cinder_backend
    if is_service_enabled c-bak && type "cleanup_cinder_backup_$CINDER_BACKUP_DRIVER" >/dev/null 2>&1; then
        "cleanup_cinder_backup_$CINDER_BACKUP_DRIVER"
    fi
}
