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

# iniset FILE SECTION OPTION VALUE
function iniset {
    crudini --set "$1" "$2" "$3" "$4"
}

function iniget {
    crudini --get "$1" "$2" "$3" 2>/dev/null || true
}

function inidelete {
    crudini --del "$1" "$2" "$3"
}

# merge_config_file LOCAL_CONF GROUP \$VARIABLE
function merge_config_file {
    local file

    file=$(eval echo "$3")
    if [[ -r $1 ]]; then
        awk -v wanted="[[$2|$3]]" '/^\[\[/ { within = ($0 == wanted); next } within' "$1" |
            crudini --merge "$file"
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
        crudini --set "$SYSTEMD_DIR/$unit" Service ExecStart "$2"
        crudini --set "$SYSTEMD_DIR/$unit" Service User "${4:-$STACK_USER}"
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
