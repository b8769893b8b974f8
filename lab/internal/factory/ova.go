// The image: an OVA as Talos' imager writes it for VMware, with a disk that holds a header only.

package factory

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"text/template"
)

// The image names its own content in the OVF's vmw:ExtraConfig, which vCenter copies to every
// machine deployed from it. A real image has this knowledge on its disk.
const (
	// ExtraConfigVersion is the key of the Talos version in the image, without a leading v.
	ExtraConfigVersion = "lab.image.talosVersion"
	// ExtraConfigSchematic is the key of the identifier of the image's schematic.
	ExtraConfigSchematic = "lab.image.schematic"
)

const (
	diskCapacityMiB = 1246 // the raw disk of Talos' VMware image
	diskBytes       = 64 << 10
	sectorBytes     = 512
	mebibyte        = 1 << 20
)

var ovfTemplate = template.Must(template.New("ovf").Parse(`<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:href="disk.vmdk" ovf:id="file1" ovf:size="{{ .DiskBytes }}"/>
  </References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:capacity="{{ .CapacityMiB }}" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
    <Network ovf:name="VM Network">
      <Description>The machine's network</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="vm">
    <Info>A simulated Talos machine</Info>
    <Name>talos</Name>
    <ProductSection ovf:required="false">
      <Info>Talos Virtual Appliance (simulated)</Info>
      <Property ovf:userConfigurable="true" ovf:type="string" ovf:key="talos.config" ovf:value="">
        <Label>Talos config data</Label>
        <Description>Inline Talos config</Description>
      </Property>
    </ProductSection>
    <OperatingSystemSection ovf:id="101" vmw:osType="other3xLinux64Guest">
      <Info>Guest operating system</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo">
      <Info>Virtual hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>talos</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-15</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:AllocationUnits>hertz * 10^6</rasd:AllocationUnits>
        <rasd:ElementName>2 virtual CPU(s)</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>2</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:ElementName>2048MB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>2048</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:Address>0</rasd:Address>
        <rasd:ElementName>scsiController0</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>
        <rasd:ResourceType>6</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>disk0</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>2</rasd:AddressOnParent>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>VM Network</rasd:Connection>
        <rasd:ElementName>ethernet0</rasd:ElementName>
        <rasd:InstanceID>5</rasd:InstanceID>
        <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>
      <vmw:ExtraConfig ovf:required="false" vmw:key="disk.EnableUUID" vmw:value="true"/>
      <vmw:ExtraConfig ovf:required="false" vmw:key="{{ .VersionKey }}" vmw:value="{{ .Version }}"/>
      <vmw:ExtraConfig ovf:required="false" vmw:key="{{ .SchematicKey }}" vmw:value="{{ .Schematic }}"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
`))

// buildOVA makes the image of a Talos version and a schematic: the same bytes every time.
func buildOVA(version, schematic string) ([]byte, error) {
	disk, err := buildDisk(version, schematic)
	if err != nil {
		return nil, err
	}
	var ovf bytes.Buffer
	err = ovfTemplate.Execute(&ovf, map[string]any{
		"DiskBytes": len(disk), "CapacityMiB": diskCapacityMiB,
		"VersionKey": ExtraConfigVersion, "Version": version,
		"SchematicKey": ExtraConfigSchematic, "Schematic": schematic,
	})
	if err != nil {
		return nil, err
	}
	manifest := fmt.Sprintf("SHA256(disk.vmdk)= %s\nSHA256(disk.ovf)= %s\n", identifier(disk), identifier(ovf.Bytes()))

	// The descriptor comes first: clients stream an OVA and stop once they have it.
	var ova bytes.Buffer
	archive := tar.NewWriter(&ova)
	for _, file := range []struct {
		name    string
		content []byte
	}{{"disk.ovf", ovf.Bytes()}, {"disk.mf", []byte(manifest)}, {"disk.vmdk", disk}} {
		header := &tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content)), ModTime: epoch}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(file.content); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return ova.Bytes(), nil
}

// sparseHeader is the first sector of a VMDK (VMware Virtual Disk Format 5.0, SparseExtentHeader).
type sparseHeader struct {
	Magic            [4]byte
	Version          uint32
	Flags            uint32
	Capacity         uint64 // sectors
	GrainSize        uint64 // sectors
	DescriptorOffset uint64 // sectors
	DescriptorSize   uint64 // sectors
	NumGTEsPerGT     uint32
	RGDOffset        uint64
	GDOffset         uint64
	Overhead         uint64 // sectors
	UncleanShutdown  byte
	LineEndings      [4]byte
	CompressAlgo     uint16
	Padding          [433]byte
}

// buildDisk makes a stream-optimized VMDK without content. vCenter looks at the header and at the
// descriptor in the second sector.
func buildDisk(version, schematic string) ([]byte, error) {
	const (
		flagNewlines   = 1 << 0
		flagCompressed = 1 << 16
		flagMarkers    = 1 << 17
		capacity       = diskCapacityMiB * mebibyte / sectorBytes
	)
	header := sparseHeader{
		Magic: [4]byte{'K', 'D', 'M', 'V'}, Version: 3, Flags: flagNewlines | flagCompressed | flagMarkers,
		Capacity: capacity, GrainSize: 128, DescriptorOffset: 1, DescriptorSize: 1, NumGTEsPerGT: sectorBytes,
		Overhead: 128, LineEndings: [4]byte{'\n', ' ', '\r', '\n'}, CompressAlgo: 1,
	}
	descriptor := fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="streamOptimized"
RW %d SPARSE "disk.vmdk"
ddb.adapterType = "lsilogic"
ddb.comment = "talos v%s %s"
`, capacity, version, schematic)
	if len(descriptor) > sectorBytes {
		return nil, fmt.Errorf("the disk's descriptor has %d bytes, a sector holds %d", len(descriptor), sectorBytes)
	}
	var disk bytes.Buffer
	if err := binary.Write(&disk, binary.LittleEndian, header); err != nil {
		return nil, err
	}
	disk.WriteString(descriptor)
	return append(disk.Bytes(), make([]byte, diskBytes-disk.Len())...), nil
}
